"""Telling people and programs how jobs ended: webhooks and e-mail."""
