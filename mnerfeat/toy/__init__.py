"""A small synthetic world and tiny trained backbones: the embedded default.

Needs numpy and Pillow, not torch.
"""

from mnerfeat.toy.backbones import BACKBONES, backbone
from mnerfeat.toy.plan import Mixture, ToyPost, plan_posts
from mnerfeat.toy.views import ViewMixture, plan_view_posts
from mnerfeat.toy.world import World, WorldConfig, make_world, plan_world

__all__ = [
    "BACKBONES",
    "Mixture",
    "ToyPost",
    "ViewMixture",
    "World",
    "WorldConfig",
    "backbone",
    "make_world",
    "plan_posts",
    "plan_view_posts",
    "plan_world",
]
