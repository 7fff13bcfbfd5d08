"""Hook specs, handlers' options and matching: what a registration may say, and which handlers an event runs."""

from eventproc.registry.catalogue import Catalogue, CatalogueCache, Reason
from eventproc.registry.options import MaxLimits, options_to_json, parse_options

__all__ = ["Catalogue", "CatalogueCache", "MaxLimits", "Reason", "options_to_json", "parse_options"]
