import pytest

from mnerfeat.errors import DataError
from mnerfeat.preference.published import identify_posts, parse_published
from mnerfeat.preference.rankings import Ranking

from .builders import TinyPost

FILE = """id: 12
text: some words
label: O O
images:
12_1.jpg
12_0.jpg
inf.png
12_2.jpg
id: 77
text: others
label: O
images:
inf.png
twitter2017-O_5.jpg
"""


def write(tmp_path, text):
    path = tmp_path / "preference2.txt"
    path.write_text(text, "utf-8")
    return path


def test_the_authors_file_gives_rankings_with_the_blank_where_the_png_stands(tmp_path):
    assert parse_published(write(tmp_path, FILE)).check() == (
        Ranking(id="12", images=("12_1.jpg", "12_0.jpg", "12_2.jpg"), blank=2, source="human"),
        Ranking(id="77", images=("twitter2017-O_5.jpg",), blank=0, source="human"),
    )


def test_every_fault_is_listed_at_once(tmp_path):
    text = FILE + "id: 78\nimages:\n78_0.jpg\nid: 79\nimages:\nid: 80\nimages:\na.jpg\na.jpg\n"
    text += "inf.png\nblank.png\nid: 12\nimages:\ninf.png\nb.jpg\nscore 0.3\n"
    with pytest.raises(DataError) as caught:
        parse_published(write(tmp_path, text)).check()
    faults = "\n".join(caught.value.faults)
    for wanted in (
        "post '78': the blank image is missing",
        "post '79': the ranking is empty",
        "post '80': images are listed more than once: a.jpg",
        "post '80': 2 lines end in .png",
        "'score 0.3' is not an image name",
        "post '12' is ranked twice",
    ):
        assert wanted in faults


def test_an_image_before_the_first_post_is_a_fault(tmp_path):
    with pytest.raises(DataError, match="an image before the first line"):
        parse_published(write(tmp_path, "a.jpg\n" + FILE)).check()


def test_posts_are_found_by_their_images_where_numbers_differ():
    posts = {
        "train": [
            TinyPost(id="12", images=("a.jpg", "b.jpg")),
            TinyPost(id="5", images=("c.jpg",)),
        ],
        "dev": [TinyPost(id="12", images=("d.jpg",))],
    }
    given = [
        Ranking(id="12", images=("b.jpg", "a.jpg"), blank=1),
        Ranking(id="12", images=("d.jpg",), blank=0),
        Ranking(id="900", images=("c.jpg",), blank=0),
        Ranking(id="901", images=("z.jpg",), blank=0),
    ]
    told = identify_posts(given, posts)
    assert [(one.split, one.id) for one in told] == [
        ("train", "12"),
        ("dev", "12"),
        ("train", "5"),
        (None, "901"),
    ]
