"""Messages of the HTTP API: types and their validation. msgspec only; Python 3.10 or newer, for the client package."""
