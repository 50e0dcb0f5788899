"""The doctor: everything that could keep machines from coming, looked at now and told with the fix. It changes nothing."""
