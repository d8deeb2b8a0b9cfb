//! Simulated files, clock and randomness for crash tests.
