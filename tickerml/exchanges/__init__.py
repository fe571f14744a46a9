"""One file per exchange: pure parse functions, and the component that publishes what they return."""
