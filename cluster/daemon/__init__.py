"""The one background process of a cluster. Nothing else imports it."""
