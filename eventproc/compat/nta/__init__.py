"""nta's names, for applications that come from htmengine."""
