//! Compression of trained networks: calibration, factorisation, allocation, plans.
