"""Configuration and message bus, as nta.utils had them."""
