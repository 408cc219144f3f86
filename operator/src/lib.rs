//! Kubernetes operator.
