"""What edgeae does for a user: tasks compose the layers below and own the streaming state."""
