"""
The gRPC service that the public package `btrdbextras` speaks to: a thin skin over the use cases, like the HTTP API.

`eventprocapi.proto` is the interface in writing, for people and for clients in other languages.
"""
