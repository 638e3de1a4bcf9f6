"""Boxes of every format that people have are read, each belongs to one picture, and what cannot be meant is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from faceanon_engine.engine.datasets import boxes as module
from faceanon_engine.engine.datasets.boxes import Boxes, assign, notes, read_boxes
from faceanon_engine.engine.errors import UserError


def written(folder: Path, content: str | bytes | dict[str, Any]) -> Path:
    file = folder / "boxes"
    content = json.dumps(content) if isinstance(content, dict) else content
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return file


def read(folder: Path, content: str | bytes | dict[str, Any]) -> dict[str, list[list[float]]]:
    return {name: faces.tolist() for name, faces in read_boxes(written(folder, content)).pictures.items()}


def coco(*annotations: Any, **more: Any) -> dict[str, Any]:
    images = [{"id": 7, "file_name": "a.jpg", "width": 640}, {"id": "b", "file_name": "b/b.jpg"}]
    return {"images": images, "annotations": list(annotations), **more}


EXPECTED = {"a.jpg": [[10, 20, 40, 60.5], [1, 2, 4, 6]], "b/b.jpg": []}


def test_coco_is_read(tmp_path: Path) -> None:
    first = {"image_id": 7, "bbox": [10, 20, 30, 40.5], "category_id": 3, "iscrowd": 0}
    second = {"image_id": 7, "bbox": [1, 2, 3, 4], "category_id": 3}
    assert read(tmp_path, coco(first, second)) == EXPECTED
    assert read(tmp_path, coco(first, second, categories=[{"id": 3, "name": "person"}])) == EXPECTED
    car = {"image_id": 7, "bbox": [0, 0, 600, 400], "category_id": 1}
    several = [{"id": 1, "name": "surface"}, {"id": 3, "name": "human_face"}]
    assert read(tmp_path, coco(car, first, second, categories=several)) == EXPECTED
    with pytest.raises(UserError, match="categories 'car', 'person', of which none is named face"):
        read(tmp_path, coco(first, categories=[{"id": 1, "name": "car"}, {"id": 2, "name": "person"}]))


def test_wider_is_read(tmp_path: Path) -> None:
    lines = "a.jpg\n2\n10 20 30 40.5 0 0 0 0 0 0 \n1 2 3 4 0.98\n"
    assert read(tmp_path, lines + "b/b.jpg\n0\n0 0 0 0 0 0 0 0 0 0\n") == EXPECTED
    assert read(tmp_path, "b/b.jpg\r\n0\r\n" + lines.replace("\n", "\r\n")) == EXPECTED
    assert read(tmp_path, "a.jpg\n1\n10 20 30 40.5\n\na.jpg\n1\n1 2 3 4\nb/b.jpg\n0\n") == EXPECTED
    assert list(read(tmp_path, "two words.jpg\n1\n1 2 3 4\n17\n1\n1 2 3 4\n")) == ["two words.jpg", "17"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize(
    "lines",
    [
        "path,x,y,w,h\na.jpg,10,20,30,40.5\na.jpg,1,2,3,4\nb/b.jpg,,,,\n",
        'Score;X1;Y1;X2;Y2;File\r\n1;10;20;40;60.5;"a.jpg"\r\n1;1;2;4;6;a.jpg\r\n\r\n;;;;;b/b.jpg\r\n',
        "filename\twidth\theight\tclass\txmin\tymin\txmax\tymax\na.jpg\t640\t480\tface\t10\t20\t40\t60.5\n"
        "a.jpg\t640\t480\tface\t1\t2\t4\t6\nb/b.jpg\t640\t480\t\t\t\t\t\n",
        "image, left, top, right, bottom\na.jpg, 10, 20, 40, 60.5\na.jpg, 1, 2, 4, 6\nb/b.jpg, , , ,\n",
        "left,top,width,height,name\n10,20,30,40.5,a.jpg\n1,2,3,4,a.jpg\n,,,,b/b.jpg",
    ],
)
def test_csv_is_read(tmp_path: Path, lines: str, encoding: str) -> None:
    assert read(tmp_path, lines.encode(encoding)) == EXPECTED


def test_boxes_without_an_area_are_counted(tmp_path: Path) -> None:
    found = read_boxes(written(tmp_path, "a.jpg\n3\n10 20 0 40\n10 20 30 0\n1 2 3 4\n"))
    assert found.flat == 2
    assert found.pictures["a.jpg"].tolist() == [[1, 2, 4, 6]]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "names no picture"),
        ("\n\n", "names no picture"),
        (b"\xff\xfe\xff", "is not UTF-8 text"),
        (b"a\0.jpg\n1\n", "is no text"),
        ("a.jpg\n", "line 1, 'a.jpg', is the last"),
        ("a.jpg\nb.jpg\n", "line 2, 'b.jpg', is no number of faces"),
        ("a.jpg\n2\n1 2 3 4\n", "line 2 says 2 faces, and 1 lines follow"),
        ("a.jpg\n1\n1 2 3\n", r"line 3: \['1', '2', '3'\] is no box"),
        ("a.jpg\n1\n1 2 nan 4\n", "line 3: .* lies in no picture"),
        ("a.jpg\n1\n1 2 1e300 4\n", "line 3: .* lies in no picture"),
        ("a.jpg\n1\n1 2 -3 4\n", "line 3: .* ends before it begins: give left, top, width, height"),
        ("a.jpg\n1\n0.1 0.2 0.3 0.4\n", "ends within 1 pixel, as shares of a picture do: give pixels"),
        ("a.jpg,1,2,3,4\n", "header .* lacks columns: name the picture in a column path"),
        ("path,x,y,w,size\na.jpg,1,2,3,4\n", "lacks columns"),
        ("path,x,y,w,h\na.jpg,1,2,3\n", "line 2 has 4 columns"),
        ("path,x,y,w,h\n,1,2,3,4\n", "line 2 names no picture"),
        ("path;x;y;w;h\na.jpg;1;2;3,5;4\n", "line 2: .* is no box"),
        ("path,x,y,w,h\na.jpg,1,2,,4\n", "line 2: .* is no box"),
        ("path,x1,y1,x2,y2\na.jpg,5,5,3,9\n", "line 2: .* ends before it begins: give left, top, right, bottom"),
        ("path,x,y,w,h\n" + "x" * 200_000 + ",1,2,3,4\n", "line 2 is no CSV"),
        ("{", "line 1 is no JSON"),
        ("[" * 100_000, "nested too deep"),
        ("[]", "has no list 'images'"),
        ('{"images": [1], "annotations": []}', "has no list 'images'"),
        ('{"images": []}', "has no list 'annotations'"),
        ('{"images": [], "annotations": []}', "names no picture"),
        ('{"images": [{"id": %s}]}' % ("9" * 5000), "a number is no JSON"),
        ({"images": [{"id": 1}], "annotations": []}, "image 0 has the file_name None"),
        ({"images": [{"id": True, "file_name": "a"}], "annotations": []}, "image 0 has the id True"),
        ({"images": [{"id": 1, "file_name": "a"}] * 2, "annotations": []}, "1 images have an id that others have"),
        (coco({"image_id": 8, "bbox": [1, 2, 3, 4]}), "annotation 0 is of image 8, which is not among the images"),
        (coco({"image_id": [], "bbox": [1, 2, 3, 4]}), r"annotation 0 has the image_id \[\]"),
        (coco({"image_id": 7}), r"annotation 0: \[None\] is no box"),
        (coco({"image_id": 7, "bbox": [1, 2, True, 4]}), "annotation 0: .* is no box"),
        (coco({"image_id": 7, "bbox": [1, 2, 10**400, 4]}), "annotation 0: .* is no box"),
        (coco({"image_id": 7, "bbox": {"x": 1}}), "annotation 0: .* is no box"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_a_line(
    tmp_path: Path, content: str | bytes | dict[str, Any], expected: str
) -> None:
    file = written(tmp_path, content)
    with pytest.raises(UserError, match=expected) as caught:
        read_boxes(file)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_files_without_an_end_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="a pipe or a device"):
        read_boxes(Path("/dev/zero"))
    with pytest.raises(UserError, match="No such file"):
        read_boxes(tmp_path / "none")
    monkeypatch.setattr(module, "_MOST_BYTES", 2048)
    with pytest.raises(UserError, match="has more than 2 KiB"):
        read_boxes(written(tmp_path, "x" * 4000))
    monkeypatch.setattr(module, "_MOST_FACES", 3)
    with pytest.raises(UserError, match=r"line 6: 'a.jpg' has more than 3 faces"):
        read_boxes(written(tmp_path, "a.jpg\n4\n" + "1 2 3 4\n" * 4))


def named(*names: str) -> Boxes:
    """Boxes of which each picture's first begins at its number."""
    pictures = {name: np.array([[number, 0, number + 9, 9]], float) for number, name in enumerate(names)}
    return Boxes(Path("faces.csv"), pictures, 0)


def assigned(names: list[str], keys: list[str]) -> tuple[dict[str, str], set[str]]:
    result = assign(named(*names), keys)
    return {key: names[int(faces[0, 0])] for key, faces in result.pictures.items()}, set(result.absent)


@pytest.mark.parametrize("name", ["x/a.jpg", "a.jpg", "./x/a.jpg", "x\\a.jpg", "C:\\me\\x\\a.jpg", "/home/me/x/a.jpg"])
def test_a_picture_is_known_by_its_path_or_the_end_of_it(name: str) -> None:
    assert assigned([name, "none.jpg"], ["x/b.jpg", "x/a.jpg"]) == ({"x/a.jpg": name}, {"none.jpg"})


def test_only_whole_names_of_folders_and_files_count() -> None:
    names = ["y/a.jpg", "aa.jpg", "A.jpg", "a.jpeg", "x"]
    assert assigned(names, ["x/a.jpg"]) == ({}, set(names))
    accent, composed = "re\u0301my.jpg", "r\u00e9my.jpg"
    assert assigned([accent], [composed]) == ({composed: accent}, set())


def test_the_path_itself_goes_before_what_ends_alike() -> None:
    assert assigned(["a.jpg", "x/a.jpg"], ["a.jpg", "x/a.jpg"]) == ({"a.jpg": "a.jpg", "x/a.jpg": "x/a.jpg"}, set())
    assert assigned(["x/a.jpg", "a.jpg"], ["a.jpg"]) == ({"a.jpg": "a.jpg"}, {"x/a.jpg"})


def test_what_is_not_used_is_said() -> None:
    boxes = Boxes(Path("faces.csv"), named("a.jpg", "b.jpg", "c.jpg").pictures, 2)
    assert notes(boxes, assign(boxes, ["a.jpg"])) == (
        "faces.csv: 2 pictures that it names are not in the data set: 'b.jpg' and 1 more",
        "faces.csv: 2 boxes have no width or no height, and are left out",
    )
    assert notes(named("a.jpg"), assign(named("a.jpg"), ["a.jpg"])) == ()


def test_what_may_mean_several_is_refused() -> None:
    with pytest.raises(UserError, match=r"faces.csv: 'a.jpg' may be 'x/a.jpg' or 'y/a.jpg': name pictures by"):
        assign(named("a.jpg"), ["x/a.jpg", "y/a.jpg"])
    with pytest.raises(UserError, match=r"'x/a.jpg' and 'y/a.jpg' are both 'a.jpg'"):
        assign(named("x/a.jpg", "y/a.jpg"), ["a.jpg"])
    with pytest.raises(UserError, match=r"are both 'a.jpg'"):
        assign(named("./a.jpg", "a.jpg"), ["a.jpg"])
    with pytest.raises(UserError, match=r"may be"):
        assign(named("re\u0301.jpg"), ["re\u0301.jpg", "r\u00e9.jpg"])


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.binary()
    | st.lists(st.text() | st.sampled_from(["a.jpg", "1", "0", "1 2 3 4", "path,x,y,w,h", "a,1,2,3,4", ",,,,"]))
    .map("\n".join)
    .map(lambda text: text.encode("utf-8", "replace"))
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: (
            st.lists(inner) | st.dictionaries(st.sampled_from(["id", "bbox", "image_id", "file_name"]), inner)
        ),
    ).map(lambda value: json.dumps({"images": [value], "annotations": [value]}).encode())
)
def test_any_bytes_are_boxes_or_refused(tmp_path: Path, content: bytes) -> None:
    try:
        found = read_boxes(written(tmp_path, content))
    except UserError:
        return
    for faces in found.pictures.values():
        assert np.isfinite(faces).all()
        assert (faces[:, 2:] > faces[:, :2]).all()
    try:
        result = assign(found, ["a.jpg", "x/a.jpg", "1"])
    except UserError:
        return
    assert len(result.pictures) + len(result.absent) == len(found.pictures)
