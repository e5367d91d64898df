import json
from xml.etree import ElementTree as ET

import pytest

from mnerfeat.cache import text_id
from mnerfeat.errors import DataError
from mnerfeat.preference.label_studio import INTERFACE, make_tasks, parse_export
from mnerfeat.preference.rankings import Ranking

from .builders import TinyPost


def annotated(task, value, *, by=1, cancelled=False, kind="ranker"):
    """A task as Label Studio exports it."""
    result = {"from_name": "rank", "to_name": "images", "type": kind, "value": {"ranker": value}}
    annotation = {"id": 3, "completed_by": by, "was_cancelled": cancelled, "result": [result]}
    return {"id": 1, "data": task, "annotations": [annotation]}


def export(tmp_path, *tasks):
    path = tmp_path / "export.json"
    path.write_text(json.dumps(tasks), "utf-8")
    return path


TASK = {"id": "7", "split": "train", "text": "…", "items": []}


def test_tasks_show_every_image_once_and_the_interface_reads_their_fields():
    posts = [
        ("train", TinyPost(id="7", text='a "b"', images=("x/1 &.jpg", "2.jpg"))),
        ("train", TinyPost(id="8")),
    ]
    (task,) = make_tasks(posts, images="http://host/")
    assert task["data"]["id"] == "7"
    assert [item["id"] for item in task["data"]["items"]] == ["x/1 &.jpg", "2.jpg"]
    assert task["data"]["items"][0]["html"] == '<img src="http://host/x/1%20%26.jpg"/>'
    view = ET.fromstring(INTERFACE)
    read = {
        node.attrib["value"][1:] for node in view.iter() if node.attrib.get("value", "")[:1] == "$"
    }
    assert read <= set(task["data"])
    names = {node.attrib["name"] for node in view.iter("List")}
    assert {node.attrib["toName"] for node in view.iter("Ranker")} == names


def test_tasks_that_were_ranked_come_back_as_rankings(tmp_path):
    post = TinyPost(id="7", images=("a.jpg", "b.jpg", "c.jpg"))
    (task,) = make_tasks([("dev", post)], images="")
    done = annotated(task["data"], {"relevant": ["c.jpg"], "irrelevant": ["b.jpg", "a.jpg"]})
    assert parse_export(export(tmp_path, done)).check() == (
        Ranking(
            id="7",
            images=("c.jpg", "b.jpg", "a.jpg"),
            blank=1,
            source="human",
            split="dev",
            annotator="1",
            text_id=text_id(post.text).hex(),
        ),
    )


@pytest.mark.parametrize(
    ("value", "images", "blank"),
    [
        ({"relevant": ["a", "b"], "irrelevant": ["c"]}, ("a", "b", "c"), 2),
        ({"relevant": [], "irrelevant": ["c"]}, ("c",), 0),
        ({"relevant": ["a"], "_": ["b", "c"]}, ("a",), 1),  # partial: nobody moved the others
        ({"rank": ["a", "blank", "b"]}, ("a", "b"), 1),
        (["blank", "b"], ("b",), 0),
    ],
)
def test_buckets_and_lists_with_a_blank_item_are_understood(tmp_path, value, images, blank):
    (ranking,) = parse_export(export(tmp_path, annotated(TASK, value))).check()
    assert (ranking.images, ranking.blank) == (images, blank)


def test_skipped_tasks_are_passed_over(tmp_path, caplog):
    skipped = annotated(TASK | {"id": "8"}, ["blank"], cancelled=True)
    todo = {"id": 2, "data": TASK | {"id": "9"}, "annotations": []}
    done = annotated(TASK, ["a", "blank"])
    assert len(parse_export(export(tmp_path, skipped, todo, done)).check()) == 1
    assert "2 tasks have no annotation" in caplog.text


def test_every_fault_is_listed_at_once(tmp_path):
    tasks = [
        annotated(TASK | {"id": "1"}, ["a", "b"]),
        annotated(TASK | {"id": "2"}, {"relevant": [], "irrelevant": []}),
        annotated(TASK | {"id": "3"}, {"good": ["a"], "bad": ["b"]}),
        annotated(TASK | {"id": "4"}, ["a", "a", "blank"]),
        annotated(TASK | {"id": "5"}, ["blank", "a", "blank"]),
        annotated(TASK | {"id": "6"}, ["a", "blank"], kind="choices"),
        annotated({"text": "no id"}, ["a", "blank"]),
        annotated(TASK | {"id": "8"}, {"relevant": "a", "irrelevant": []}),
        annotated(TASK | {"id": "9"}, ["a", "blank"]),
        annotated(TASK | {"id": "9"}, ["a", "blank"]),
        annotated(TASK | {"id": "10"}, {"_": ["a", "b"]}),
    ]
    with pytest.raises(DataError) as caught:
        parse_export(export(tmp_path, *tasks)).check()
    faults = caught.value.faults
    for wanted in (
        "the blank image is missing",
        "the ranking is empty",
        "its buckets are good, bad; wanted relevant and irrelevant",
        "images are listed more than once: a",
        "the blank image is listed 2 times",
        "an annotation has 0 rankings",
        "its data has no 'id'",
        "a bucket of its ranking is not a list",
        "post '9' is ranked twice",
        "its buckets are none",
    ):
        assert any(wanted in fault for fault in faults), wanted
    assert len(faults) == 10


@pytest.mark.parametrize("content", ["{}", "[1]", '[{"id": 1, "rank": []}]', "nonsense"])
def test_other_formats_are_refused_with_the_way_to_export(tmp_path, content):
    path = tmp_path / "export.json"
    path.write_text(content, "utf-8")
    with pytest.raises(DataError, match="Export → JSON"):
        parse_export(path).check()
