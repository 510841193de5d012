// A caller's array (n, height, width) with any strides, copied into a contiguous one.
//
// Block (32, 8), grid (width / 32, height / 8, n) rounded up, no shared memory; one value a thread.
// address: of the first value; strides: bytes from one value to the next along each axis, negative where it runs backwards.

template <typename Value>
static __device__ __forceinline__ void gather(unsigned long long address, long long stride_n, long long stride_y,
                                              long long stride_x, Value* __restrict__ target, int height, int width) {
    int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= width || y >= height) return;
    const char* source = reinterpret_cast<const char*>(address) + stride_n * blockIdx.z + stride_y * y + stride_x * x;
    target[((size_t)blockIdx.z * height + y) * width + x] = *reinterpret_cast<const Value*>(source);
}

extern "C" __global__ void gather_bytes(unsigned long long address, long long stride_n, long long stride_y,
                                        long long stride_x, unsigned char* __restrict__ target, int height, int width) {
    gather(address, stride_n, stride_y, stride_x, target, height, width);
}

extern "C" __global__ void gather_floats(unsigned long long address, long long stride_n, long long stride_y,
                                         long long stride_x, float* __restrict__ target, int height, int width) {
    gather(address, stride_n, stride_y, stride_x, target, height, width);
}
