"""Events out of notifications, by the rules of an event_definitions.yaml as stackdistiller reads it."""

from eventproc.ingress.distiller.definitions import Distiller
from eventproc.ingress.distiller.trait_plugins import (
    BUILT_IN,
    BitfieldTraitPlugin,
    SplitterTraitPlugin,
    TraitPluginBase,
)

__all__ = ["BUILT_IN", "BitfieldTraitPlugin", "Distiller", "SplitterTraitPlugin", "TraitPluginBase"]
