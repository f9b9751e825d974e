//! Metrics, statistics and tables.
