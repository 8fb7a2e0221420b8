"""Settings: ``config/*.yaml`` and the environment become one checked value, or the list of all mistakes."""
