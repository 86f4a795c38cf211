"""Recipes that come with edgeae, one TOML file each; ``edgeae recipes`` lists them."""
