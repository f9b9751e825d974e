//! Optimisation building blocks: the multiple-choice knapsack with a certificate.
