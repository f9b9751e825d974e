//! The registry: every method once, read by `methods`, help texts and conformance tests.

mod compress;
mod estimate;
mod estimators;
mod train;

use sparseland_core::Method;

/// All methods, in the order of the README.
pub fn methods() -> impl Iterator<Item = &'static Method> {
    [compress::METHODS, train::METHODS, estimators::METHODS, estimate::METHODS].into_iter().flatten()
}

/// The method of a slug.
pub fn find(slug: &str) -> Option<&'static Method> {
    methods().find(|m| m.slug == slug)
}

#[cfg(test)]
mod tests {
    use sparseland_core::ParameterKind;

    use super::*;

    #[test]
    fn defaults_lie_in_their_ranges_and_slugs_are_unique() {
        for (i, method) in methods().enumerate() {
            assert!(methods().take(i).all(|m| m.slug != method.slug));
            for p in method.parameters {
                match p.kind {
                    ParameterKind::Real { min, max } => {
                        let value: f64 = p.default.parse().unwrap();
                        assert!((min..=max).contains(&value), "{}", p.name);
                    }
                    ParameterKind::Integer { min, max } => {
                        let value: u64 = p.default.parse().unwrap();
                        assert!((min..=max).contains(&value), "{}", p.name);
                    }
                    ParameterKind::Choice { of } => assert!(of.contains(&p.default), "{}", p.name),
                    ParameterKind::File => assert_eq!(p.default, "", "{}", p.name),
                }
            }
        }
    }
}
