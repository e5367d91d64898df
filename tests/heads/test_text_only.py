import pytest

from mnerfeat.errors import ConfigError
from mnerfeat.heads.text_only import TextOnlyConfig

from .contract import SIZES, HeadContract


class TestTextOnly(HeadContract):
    config = TextOnlyConfig()

    def test_has_nothing_but_emissions_and_crf(self, head):
        groups = head.parameter_groups()
        assert groups["fusion"] == []
        assert groups["scalars"] == []
        tags, d_text = SIZES.n_tags, SIZES.d_text
        assert (
            sum(x.numel() for x in groups["crf"]) == d_text * tags + tags + tags * tags + 2 * tags
        )


@pytest.mark.parametrize("dropout", [-0.1, 1.0])
def test_impossible_dropout_is_refused(dropout):
    with pytest.raises(ConfigError, match=r"head\.text\.dropout"):
        TextOnlyConfig(dropout=dropout)
