//! Metric families and labels.
