"""The half that runs on the host only: templates rendered, seed volumes, the JSON schema."""
