import hashlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from mnerfeat.errors import ConfigError
from mnerfeat.preference.blank import BLANKS, blank_name, blank_png

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def pixels(content):
    with Image.open(BytesIO(content)) as image:
        image.load()
        return np.asarray(image.convert("RGB").resize((224, 224), Image.Resampling.BICUBIC))


@pytest.mark.parametrize(("blank", "level"), [("white", 255), ("black", 0)])
def test_white_and_black_are_what_they_say(blank, level):
    assert (pixels(blank_png(blank, CLIP_MEAN)) == level).all()


def test_the_mean_colour_is_zero_after_the_encoders_normalisation_to_half_a_level():
    found = (pixels(blank_png("mean", CLIP_MEAN)) / 255 - CLIP_MEAN) / CLIP_STD
    assert np.abs(found).max() <= 0.5 / 255 / min(CLIP_STD)
    assert np.ptp(found, axis=(0, 1)).max() == 0


def test_the_bytes_are_the_same_on_every_machine():
    digest = hashlib.sha256(blank_png("mean", CLIP_MEAN)).hexdigest()
    assert digest == "4ccf0cf245c10afa36e66df6c145926c594250fe1054bc340656fccc946e9200"


def test_names_tell_blanks_apart():
    assert len({blank_name(blank) for blank in BLANKS}) == len(BLANKS)


def test_unknown_colours_are_refused():
    with pytest.raises(ConfigError, match=r"rank\.blank is 'grey'; choose from: mean, white"):
        getattr(blank_png, "__wrapped__", blank_png)("grey", CLIP_MEAN)
