"""Built-in plugins outside the four named families: features, simulator, portfolio, recorder."""
