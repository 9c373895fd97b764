"""Where this machine's pip, uv and npm take packages from: asked of the tools themselves, never written down here."""
