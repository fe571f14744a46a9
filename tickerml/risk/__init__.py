"""Risk rules: one file, one rule, and a rule can only reduce."""
