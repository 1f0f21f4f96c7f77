//! The policy: who may have which groups, for how long, on what key, and why.
