"""The nouns: tables (`tables`) and what may become of them (`states`)."""
