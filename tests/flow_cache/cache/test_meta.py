import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flow_cache.cache.codecs import StorageSettings
from flow_cache.cache.meta import CacheMeta, OtherVersionError, Source, current_versions
from flow_cache.errors import ArgumentError

META = CacheMeta(
    source=Source("walk/ä b.avi", 1234, "ab" * 32),
    method="farneback",
    parameters={"levels": 5, "pyr_scale": 0.5},
    backend="opencv-cpu",
    bound=15.5,
    step=2,
    size=(64, 48),
    storage=StorageSettings("jpeg", quality=80, rgb=True, rgb_quality=70),
    fps=29.97003,
    width=64,
    height=48,
    frames=12,
    fields=10,
    clip_fraction=0.0125,
    partial="frame 12: broken",
    versions={"numpy": "2"},
)


@settings(max_examples=30, deadline=None)
@given(
    st.builds(
        CacheMeta,
        source=st.builds(Source, st.text(), st.integers(0, 1 << 60), st.text()),
        method=st.text(),
        parameters=st.dictionaries(
            st.text(), st.integers() | st.floats(allow_nan=False, allow_infinity=False)
        ),
        bound=st.floats(0.5, 500),
        step=st.integers(1, 9),
        short_side=st.none() | st.integers(1, 4000),
        storage=st.builds(
            StorageSettings, st.sampled_from(["jpegls", "zstd", "jpegxl"]), st.integers(0, 127)
        ),
        fps=st.floats(0, 1e4),
        clip_fraction=st.floats(0, 1),
        partial=st.none() | st.text(),
    )
)
def test_meta_survives_json(meta: CacheMeta) -> None:
    data = meta.to_json()
    assert data.isascii()
    assert CacheMeta.from_json(data.ljust(9000)) == meta


def test_every_field_survives_json() -> None:
    assert CacheMeta.from_json(META.to_json()) == META


@pytest.mark.parametrize("name", sorted(json.loads(META.to_json())))
@pytest.mark.parametrize("value", ["missing", {"a": {}}, True, -1, [1], "x", 1e400])
def test_any_wrong_value_is_a_value_error_or_harmless(name: str, value: object) -> None:
    document = json.loads(META.to_json())
    if value == "missing":
        del document[name]
    else:
        document[name] = value
    try:
        read = CacheMeta.from_json(json.dumps(document).encode())
    except ValueError:
        return
    assert json.loads(read.to_json())[name] in (value, None)  # e.g. another text where text is expected


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{}", b"\xff\xfe", b"[" * 100_000, b"null", b'{"format": "other"}']
)
def test_other_documents_are_value_errors(data: bytes) -> None:
    with pytest.raises(ValueError):
        CacheMeta.from_json(data)


def test_format_version_is_checked() -> None:
    data = META.to_json()
    for version in (b"1", b"4", b"null", b'"x"'):
        other = data.replace(b'"format_version": 2', b'"format_version": ' + version)
        with pytest.raises(OtherVersionError, match=r"^format version .*, this build reads 2 and 3$"):
            CacheMeta.from_json(other)


@pytest.mark.parametrize(
    ("codec", "version"), [("jpegls", 2), ("jpeg", 2), ("png", 2), ("zstd", 3), ("jpegxl", 3)]
)
def test_a_codec_stands_only_in_files_whose_readers_know_it(codec: str, version: int) -> None:
    """Builds that read version 2 refuse version 3 by name; any other error they take for damage, and redo the file."""
    meta = replace(
        META, storage=StorageSettings(codec), versions=current_versions((), StorageSettings(codec))
    )
    document = json.loads(meta.to_json())
    assert document["format_version"] == version
    assert document["versions"]["format"] == str(version)
    document["format_version"] = 5 - version
    with pytest.raises(ValueError, match=f"format version {5 - version} does not go with codec {codec}"):
        CacheMeta.from_json(json.dumps(document).encode())


def test_difference_names_what_decides_the_fields() -> None:
    assert META.difference(replace(META, backend="other", versions={}, frames=3, fps=1.0)) is None
    assert META.difference(replace(META, bound=20.0)) == "bound 15.5 (asked for: 20.0)"
    assert (
        META.difference(replace(META, parameters={"levels": 3, "pyr_scale": 0.5}))
        == "levels 5 (asked for: 3)"
    )
    assert (
        META.difference(replace(META, storage=StorageSettings("jpeg", quality=80)))
        == "rgb_quality 70 (asked for: None)"
    )
    assert META.difference(replace(META, size=None)) == "size 64x48 (asked for: None)"
    assert "asked for: b.avi" in str(META.difference(replace(META, source=Source("b.avi"))))
    assert (
        META.difference(replace(META, method="tvl1", parameters={"tau": 1.0}))
        == "method farneback (asked for: tvl1)"
    )
    lossless = replace(META, storage=StorageSettings("png"))
    assert lossless.difference(replace(META, storage=StorageSettings("png", max_error=5, quality=5))) is None


@pytest.mark.parametrize(
    "values",
    [
        {"width": -1},
        {"frames": 1.5},
        {"fps": float("inf")},
        {"clip_fraction": 1.5},
        {"step": 0},
        {"bound": 0},
    ],
)
def test_impossible_values_are_refused(values: dict) -> None:
    with pytest.raises(ArgumentError):
        replace(META, **values)


def test_versions_name_the_libraries() -> None:
    assert current_versions()["numpy"][0].isdigit()
    assert set(current_versions()) >= {"format", "opencv-contrib-python", "imagecodecs"}
    assert current_versions(["numba"])["numba"][0].isdigit()
