"""Rankings of images, and the discriminator trained on them (GIFR, section 4.1)."""

from mnerfeat.preference.checkpoint import (
    SavedDiscriminator,
    load_discriminator,
    open_discriminator,
)
from mnerfeat.preference.discriminator import Discriminator, DiscriminatorConfig, relevance
from mnerfeat.preference.posts import RankablePost, RankedPost, match_posts
from mnerfeat.preference.rankings import Ranking, read_rankings, write_rankings
from mnerfeat.preference.scores import RankingScores, score_rankings
from mnerfeat.preference.training import RankConfig, train_discriminator

__all__ = [
    "Discriminator",
    "DiscriminatorConfig",
    "RankConfig",
    "RankablePost",
    "RankedPost",
    "Ranking",
    "RankingScores",
    "SavedDiscriminator",
    "load_discriminator",
    "match_posts",
    "open_discriminator",
    "read_rankings",
    "relevance",
    "score_rankings",
    "train_discriminator",
    "write_rankings",
]
