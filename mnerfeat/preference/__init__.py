"""Rankings by people, and the discriminator trained on them."""

from mnerfeat.preference.discriminator import Discriminator, DiscriminatorConfig, relevance
from mnerfeat.preference.folder import SavedDiscriminator, load_discriminator, open_discriminator
from mnerfeat.preference.matching import RankablePost, RankedPost, match
from mnerfeat.preference.measuring import RankingScores, measure
from mnerfeat.preference.rankings import Ranking, read_rankings, write_rankings
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
    "match",
    "measure",
    "open_discriminator",
    "read_rankings",
    "relevance",
    "train_discriminator",
    "write_rankings",
]
