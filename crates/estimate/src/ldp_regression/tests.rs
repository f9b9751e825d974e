use super::server::{keep_largest, project};
use super::*;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64;
use sparseland_core::Context;
use sparseland_linalg::Mat;

fn context() -> Context {
    Context::new(5, 1).unwrap()
}

fn moments(d: usize, epsilon: f64, noise: MomentNoise, cross: CrossClip) -> Protocol {
    Protocol {
        dimension: d,
        epsilon,
        delta: 1e-5,
        bounds: Bounds { l2: (d as f64).sqrt(), coordinate: 1.0, response: 2.0 },
        query: Query::Moments { noise, cross },
        grid: 0.0,
    }
}

fn gradients(d: usize, epsilon: f64, radius: Radius) -> Protocol {
    Protocol {
        query: Query::Gradient { radius },
        ..moments(d, epsilon, MomentNoise::Gaussian, CrossClip::L2)
    }
}

fn distance(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f64>().sqrt()
}

#[test]
fn gaussian_scales_are_exact_and_below_the_classical_ones() {
    for (epsilon, expected) in [(0.5, 7.35), (1.0, 3.88), (2.0, 2.07)] {
        let scale = gaussian_scale(epsilon, 5e-6);
        assert!((scale - expected).abs() < 0.01, "{scale}");
        assert!(gaussian_delta(scale, 1.0, epsilon) <= 5e-6);
        assert!(gaussian_delta(scale * 0.999, 1.0, epsilon) > 5e-6);
        assert!(scale < (2.0 * (1.25f64 / 5e-6).ln()).sqrt() / epsilon * 0.85);
        // Only the ratio of scale and sensitivity counts.
        assert!((gaussian_delta(3.0 * scale, 3.0, epsilon) / 5e-6 - 1.0).abs() < 1e-6);
    }
    let mut last = f64::INFINITY;
    for k in 1..40 {
        let scale = gaussian_scale(0.25 * k as f64, 1e-6);
        assert!(scale < last);
        last = scale;
    }
}

#[test]
fn the_ball_mechanism_has_one_norm_the_right_mean_and_the_promised_ratio() {
    let mut rng = Pcg64::seed_from_u64(1);
    let (d, rho, epsilon) = (4, 2.0, 1.0);
    let g = [0.5, -1.0, 0.3, 0.0];
    let norm = ball_norm(d, rho, epsilon);
    let rounds = 200_000;
    let mut sum = [0.0; 4];
    for _ in 0..rounds {
        let mut z = g;
        ball(&mut z, rho, epsilon, &mut rng);
        let size = z.iter().map(|v| v * v).sum::<f64>().sqrt();
        assert!((size - norm).abs() < 1e-9 * norm);
        sum.iter_mut().zip(&z).for_each(|(s, v)| *s += v);
    }
    // Each value has variance below norm^2 / d + g^2.
    let error = norm / (d as f64).sqrt() / (rounds as f64).sqrt();
    for (s, g) in sum.iter().zip(&g) {
        assert!((s / rounds as f64 - g).abs() < 4.0 * error);
    }
    // Half-spaces along the two extreme inputs: the worst events.
    let count = |side: f64, rng: &mut Pcg64| {
        (0..rounds)
            .filter(|_| {
                let mut z = [side * rho, 0.0, 0.0, 0.0];
                ball(&mut z, rho, epsilon, rng);
                z[0] > 0.0
            })
            .count() as f64
    };
    let ratio = (count(1.0, &mut rng) / count(-1.0, &mut rng)).ln();
    assert!((ratio - epsilon).abs() < 0.03, "{ratio}");
    // At zero the direction is uniform; small epsilons follow the known limit.
    let mut z = [0.0; 4];
    ball(&mut z, rho, epsilon, &mut rng);
    assert!(z.iter().any(|v| *v != 0.0));
    let limit = (2.0 * std::f64::consts::PI * 1000.0).sqrt() / 0.01;
    assert!((ball_norm(1000, 1.0, 0.01) / limit - 1.0).abs() < 1e-3);
}

#[test]
fn gradients_never_exceed_the_radius() {
    let mut rng = Pcg64::seed_from_u64(2);
    let (d, k) = (6, 3);
    let protocol = gradients(d, 1.0, Radius::Paper { k });
    let tau = protocol.bounds;
    let rho = (d as f64).sqrt() * tau.coordinate * ((k as f64).sqrt() * tau.coordinate + tau.response);
    let calibrated = protocol.calibrate().unwrap();
    let mut largest = 0.0f64;
    for _ in 0..100_000 {
        let size = 10f64.powf(rng.random_range(-1.0..2.0));
        let x: Vec<f64> = (0..d).map(|_| rng.random_range(-size..size)).collect();
        let mut theta: Vec<f64> = (0..d).map(|_| rng.random_range(-1.0..1.0)).collect();
        keep_largest(&mut theta, k);
        project(&mut theta, Ball::L2(1.0));
        let mut g = vec![0.0; d];
        calibrated.gradient(&x, rng.random_range(-9.0..9.0), &theta, &mut g);
        largest = largest.max(g.iter().map(|v| v * v).sum::<f64>().sqrt());
    }
    assert!(largest <= rho && largest > 0.5 * rho);
}

/// Sensitivities by the worst of many pairs of clipped records.
#[test]
fn sensitivities_bound_every_pair_of_records() {
    let mut rng = Pcg64::seed_from_u64(3);
    let d = 3;
    let p = moments(d, 1.0, MomentNoise::Gaussian, CrossClip::L2);
    let calibrated = p.calibrate().unwrap();
    let record = |rng: &mut Pcg64| -> (Vec<f64>, f64) {
        let x = (0..d).map(|_| 4.0 * rng.random_range(-1.0f64..1.0).powi(3)).collect();
        (x, rng.random_range(-5.0..5.0))
    };
    let (mut covariance, mut cross, mut coordinate) = (0.0f64, 0.0f64, 0.0f64);
    for _ in 0..20_000 {
        let ((xa, ya), (xb, yb)) = (record(&mut rng), record(&mut rng));
        let (mut a, mut b) = (vec![0.0; 6], vec![0.0; 6]);
        calibrated.add_second_moment(&xa, &mut a);
        calibrated.add_second_moment(&xb, &mut b);
        covariance = covariance.max(distance(&a, &b));
        let (mut a, mut b) = (vec![0.0; 3], vec![0.0; 3]);
        calibrated.cross_moment(CrossClip::L2, &xa, ya, &mut a);
        calibrated.cross_moment(CrossClip::L2, &xb, yb, &mut b);
        cross = cross.max(distance(&a, &b));
        calibrated.cross_moment(CrossClip::Coordinate, &xa, ya, &mut a);
        calibrated.cross_moment(CrossClip::Coordinate, &xb, yb, &mut b);
        coordinate = coordinate.max(distance(&a, &b));
    }
    let (r, tau1, tau2) = (p.bounds.l2, p.bounds.coordinate, p.bounds.response);
    assert!(covariance <= 2f64.sqrt() * r * r && covariance > r * r);
    assert!(cross <= 2.0 * r * tau2 && cross > 1.5 * r * tau2);
    assert!(coordinate <= 2.0 * 3f64.sqrt() * tau1 * tau2);
}

/// The likelihood ratio of the sum of both messages along the worst direction, for the real client.
#[test]
fn messages_of_neighbours_pass_an_audit() {
    let (d, epsilon) = (5, 1.0);
    let rounds = 40_000u64;
    let (mut a, mut b) = (vec![0.0; d], vec![0.0; d]);
    a[0] = (d as f64).sqrt();
    b[0] = -a[0];
    let protocol = moments(d, epsilon, MomentNoise::Gaussian, CrossClip::L2);
    let mut client = Client::new(protocol, Randomness::InsecureSeed(4)).unwrap();
    let draws = |x: &[f64], from: u64, client: &mut Client| -> Vec<f64> {
        (from..from + rounds)
            .map(|user| match client.encode(user, x, 2.0, None).unwrap().content {
                Content::Moments { cross, .. } => cross[0],
                _ => unreachable!(),
            })
            .collect()
    };
    let (first, second) = (draws(&a, 0, &mut client), draws(&b, rounds, &mut client));
    for threshold in [-20.0, -5.0, 0.0, 5.0, 20.0] {
        let p = first.iter().filter(|v| **v > threshold).count() as f64 / rounds as f64;
        let q = second.iter().filter(|v| **v > threshold).count() as f64 / rounds as f64;
        let slack = 4.0 * (p.max(1e-4) / rounds as f64).sqrt();
        // The cross moment has half of the budget.
        assert!(p <= (0.5 * epsilon).exp() * q + 0.5e-5 + 2.0 * slack, "{threshold}: {p} {q}");
    }
}

#[test]
fn every_protocol_finds_an_easy_vector() {
    let (d, n) = (4, 40_000);
    let users = LinearUsers {
        theta: vec![0.8, 0.0, -0.5, 0.0],
        features: Features::Signs,
        noise: 0.1,
        count: n,
        seed: 6,
    };
    let top = EstimateConfig { threshold: Threshold::Top(2), ..EstimateConfig::default() };
    for noise in [MomentNoise::Gaussian, MomentNoise::Laplace, MomentNoise::Ball] {
        for cross in [CrossClip::L2, CrossClip::Coordinate] {
            let protocol = moments(d, 8.0, noise, cross);
            let found = simulate(&users, protocol, None, &top, &context()).unwrap();
            let error = distance(&found.estimate.theta, &users.theta);
            assert!(error < 0.25, "{noise:?} {cross:?}: {error}");
            let public = Protocol { query: Query::Cross { noise, cross }, ..protocol };
            let mut rows = Mat::zeros(2000, d);
            let other = LinearUsers { seed: 7, ..users.clone() };
            for i in 0..2000 {
                other.record(i, rows.row_mut(i));
            }
            let found = simulate(&users, public, Some(&rows), &top, &context()).unwrap();
            let error = distance(&found.estimate.theta, &users.theta);
            assert!(error < 0.15, "{noise:?} {cross:?} public: {error}");
        }
    }
    let protocol = gradients(d, 8.0, Radius::score_clip(d, n));
    for update in [Update::Hard(2), Update::Soft(None)] {
        for ball in [Ball::L2(1.0), Ball::L1(1.4)] {
            let config = InteractiveConfig { update, ball, ..InteractiveConfig::new(n) };
            let found = simulate_interactive(&users, protocol, config, &context()).unwrap();
            let error = distance(&found.estimate.theta, &users.theta);
            assert!(error < 0.25, "{update:?}: {error}");
        }
    }
}

#[test]
fn the_simulation_is_the_real_protocol() {
    let (d, n) = (3, 4000);
    let users =
        LinearUsers { theta: vec![0.8, 0.0, 0.0], features: Features::Normal, noise: 0.1, count: n, seed: 8 };
    let protocol = moments(d, 20.0, MomentNoise::Gaussian, CrossClip::L2);
    let mut client = Client::new(protocol, Randomness::InsecureSeed(9)).unwrap();
    let mut server = Server::new(protocol).unwrap();
    let mut messages = Vec::new();
    for user in 0..n {
        let mut x = vec![0.0; d];
        let y = users.record(user, &mut x);
        messages.push(client.encode(user as u64, &x, y, None).unwrap());
    }
    messages.iter().for_each(|m| server.ingest(m).unwrap());
    let config = EstimateConfig::default();
    let real = server.estimate(&config).unwrap();
    let fast = simulate(&users, protocol, None, &config, &context()).unwrap();
    assert!(distance(&real.theta, &fast.estimate.theta) < 0.2);
    assert!((real.effective_noise / fast.estimate.effective_noise - 1.0).abs() < 0.5);
    assert!(fast.clipped > 0.0 && !Simulation { clipped: 0.1, ..fast.clone() }.bounds_too_tight());
    // The order of messages does not matter.
    messages.shuffle(&mut Pcg64::seed_from_u64(1));
    let mut again = Server::new(protocol).unwrap();
    messages.iter().for_each(|m| again.ingest(m).unwrap());
    assert!(distance(&again.estimate(&config).unwrap().theta, &real.theta) < 1e-9);
    // Any number of threads gives the same simulation.
    let two = Context::new(5, 2).unwrap();
    assert_eq!(simulate(&users, protocol, None, &config, &two).unwrap(), fast);
    // A second message of a user is refused, at both ends.
    assert_eq!(again.ingest(&messages[0]), Err(LdpError::Spent { user: messages[0].user }));
    assert_eq!(client.encode(3, &[0.0; 3], 0.0, None), Err(LdpError::Spent { user: 3 }));
}

#[test]
fn interactive_messages_belong_to_their_round() {
    let protocol = gradients(2, 5.0, Radius::Score(2.0));
    let config = InteractiveConfig {
        rounds: 2,
        update: Update::Hard(1),
        keep: Some(1),
        ..InteractiveConfig::new(4000)
    };
    let mut server = InteractiveServer::new(protocol, config).unwrap();
    let mut client = Client::new(protocol, Randomness::InsecureSeed(1)).unwrap();
    assert_eq!(server.estimate(), Err(LdpError::Empty));
    assert_eq!(server.finish_round(), Err(LdpError::Empty));
    let mut user = 0;
    while !server.finished() {
        for _ in 0..2000 {
            let x = [if user % 2 == 0 { 1.0 } else { -1.0 }, if user % 3 == 0 { 1.0 } else { -1.0 }];
            let (round, theta) = server.point();
            let message = client.encode(user, &x, 0.9 * x[0], Some((round, theta))).unwrap();
            server.ingest(&message).unwrap();
            user += 1;
        }
        server.finish_round().unwrap();
    }
    let found = server.estimate().unwrap();
    assert!((found.theta[0] - 0.9).abs() < 0.2 && found.theta[1] == 0.0);
    assert_eq!(found.messages, 4000);
    let stale = Message { user: 9999, content: Content::Gradient { round: 0, gradient: vec![0.0; 2] } };
    assert!(matches!(server.ingest(&stale), Err(LdpError::Shape { .. })));
    assert!(matches!(client.encode(5000, &[1.0, 1.0], 0.0, None), Err(LdpError::Shape { .. })));
}

#[test]
fn projections_and_thresholds_do_what_they_say() {
    let mut rng = Pcg64::seed_from_u64(10);
    for _ in 0..200 {
        let theta: Vec<f64> = (0..6).map(|_| rng.random_range(-1.0..1.0)).collect();
        for ball in [Ball::L2(0.7), Ball::L1(0.7)] {
            let mut p = theta.clone();
            project(&mut p, ball);
            let size = match ball {
                Ball::L2(_) => p.iter().map(|v| v * v).sum::<f64>().sqrt(),
                Ball::L1(_) => p.iter().map(|v| v.abs()).sum(),
            };
            assert!(size <= 0.7 + 1e-12);
            // Optimality: no point of the ball has a larger product with theta - p than p has.
            let normal: Vec<f64> = theta.iter().zip(&p).map(|(a, b)| a - b).collect();
            let at: f64 = normal.iter().zip(&p).map(|(a, b)| a * b).sum();
            let best = match ball {
                Ball::L2(r) => r * normal.iter().map(|v| v * v).sum::<f64>().sqrt(),
                Ball::L1(r) => r * normal.iter().fold(0.0f64, |m, v| m.max(v.abs())),
            };
            assert!((best - at).abs() < 1e-12);
        }
        let mut kept = theta.clone();
        keep_largest(&mut kept, 2);
        assert!(kept.iter().filter(|v| **v != 0.0).count() == 2);
    }
}

#[test]
fn without_privacy_least_squares_is_thresholded() {
    let mut rng = Pcg64::seed_from_u64(11);
    let x = Mat::from_fn(300, 10, |_, _| rng.random_range(-1.0..1.0));
    let y: Vec<f64> = (0..300).map(|i| 2.0 * x.at(i, 1) - x.at(i, 4) + rng.random_range(-0.1..0.1)).collect();
    let plain = thresholded_least_squares(&x, &y, Threshold::Hard(Some(0.0)), None).unwrap();
    let target = Mat::from_vec(300, 1, y.clone()).unwrap();
    let exact = sparseland_linalg::lstsq(&x, &target).unwrap();
    assert!(distance(&plain.theta, &exact.data) < 1e-10);
    let soft = thresholded_least_squares(&x, &y, Threshold::Soft(None), None).unwrap();
    let support: Vec<usize> = (0..10).filter(|&j| soft.theta[j] != 0.0).collect();
    assert_eq!(support, [1, 4]);
    // More columns than rows: floored, finite, flagged.
    let wide = Mat::from_fn(5, 10, |i, j| x.at(i, j));
    let found = thresholded_least_squares(&wide, &y[..5], Threshold::Top(3), None).unwrap();
    assert!(found.flags.covariance_floored && found.flags.underpowered);
    assert!(found.theta.iter().all(|v| v.is_finite()));
}

#[test]
fn bad_numbers_are_refused_before_anything_is_sent() {
    let good = moments(2, 1.0, MomentNoise::Gaussian, CrossClip::L2);
    for (bad, field) in [
        (Protocol { epsilon: 0.0, ..good }, "epsilon"),
        (Protocol { epsilon: f64::NAN, ..good }, "epsilon"),
        (Protocol { delta: 1.0, ..good }, "delta"),
        (Protocol { delta: 0.0, ..good }, "delta"),
        (Protocol { dimension: 0, ..good }, "dimension"),
        (Protocol { bounds: Bounds { l2: 0.0, ..good.bounds }, ..good }, "bounds.l2"),
    ] {
        match Client::new(bad, Randomness::System) {
            Err(LdpError::Parameter { name, .. }) => assert_eq!(name, field),
            other => panic!("{field}: {other:?}"),
        }
    }
    let mut client = Client::new(good, Randomness::System).unwrap();
    assert_eq!(
        client.encode(1, &[0.0, f64::NAN], 1.0, None),
        Err(LdpError::NonFinite { user: 1, what: "feature", index: 1 })
    );
    assert_eq!(
        client.encode(1, &[0.0, 1.0], f64::INFINITY, None),
        Err(LdpError::NonFinite { user: 1, what: "response", index: 0 })
    );
    // Nothing was spent by the refused records; one message is enough for an estimate.
    let message = client.encode(1, &[0.0, 1.0], 1.0, None).unwrap();
    let mut server = Server::new(good).unwrap();
    assert_eq!(server.estimate(&EstimateConfig::default()), Err(LdpError::Empty));
    server.ingest(&message).unwrap();
    let found = server.estimate(&EstimateConfig::default()).unwrap();
    assert!(found.flags.underpowered && found.theta.iter().all(|v| v.is_finite()));
    let too_many = EstimateConfig { threshold: Threshold::Top(3), ..EstimateConfig::default() };
    assert!(matches!(server.estimate(&too_many), Err(LdpError::Parameter { name: "k", .. })));
    let other = Message { user: 2, content: Content::Cross(vec![0.0; 2]) };
    assert!(matches!(server.ingest(&other), Err(LdpError::Shape { .. })));
    // Rounded messages are multiples of the grid.
    let grid = Protocol { grid: 0.25, ..good };
    let mut client = Client::new(grid, Randomness::InsecureSeed(1)).unwrap();
    let Content::Moments { covariance, .. } = client.encode(1, &[0.5, 1.0], 1.0, None).unwrap().content
    else {
        panic!("another kind")
    };
    assert!(covariance.iter().all(|v| (v / 0.25).fract() == 0.0));
    let one = moments(1, 1.0, MomentNoise::Ball, CrossClip::Coordinate);
    let mut client = Client::new(one, Randomness::InsecureSeed(2)).unwrap();
    let mut server = Server::new(one).unwrap();
    server.ingest(&client.encode(0, &[1.0], 1.0, None).unwrap()).unwrap();
    assert_eq!(server.estimate(&EstimateConfig::default()).unwrap().theta.len(), 1);
}

#[test]
#[ignore = "minutes; run: cargo test --release -p sparseland-estimate -- --ignored --nocapture ldp_regression_acceptance"]
fn ldp_regression_acceptance() {
    let config: experiment::Config =
        toml::from_str(include_str!("../../../../experiments/ldp-regression.toml")).unwrap();
    let context = Context::new(0, 0).unwrap();
    experiment::run(&config, &context, &mut |e| {
        println!(
            "{} {} [{}]: {:.3} +- {:.3} against {:.3}; {} ({:.1} s)",
            if e.passed { "pass" } else { "MISS" },
            e.name,
            e.data,
            e.measured,
            e.spread,
            e.baseline,
            e.claimed,
            e.seconds
        );
    })
    .unwrap();
}
