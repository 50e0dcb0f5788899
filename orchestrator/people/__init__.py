"""Who may do what: people, their passwords and logins, API tokens, roles, and from where."""
