"""Device profiles that come with edgeae, one TOML each."""
