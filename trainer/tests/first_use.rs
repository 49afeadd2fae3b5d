//! libtorch is opened by the first call of any of its functions, by any number of threads at once.

use std::sync::Barrier;
use std::thread;

/// Runs in a process of its own: the only test in this file, so that libtorch is not open before.
#[test]
fn threads_that_call_first_at_once_pass_their_arguments() {
    const THREADS: i64 = 16;
    let start = Barrier::new(THREADS as usize);
    thread::scope(|scope| {
        for number in 0..THREADS {
            let start = &start;
            scope.spawn(move || {
                let fraction = number as f64 + 0.5;
                start.wait();
                // One takes an integer, the other a floating-point number.
                if number % 2 == 0 {
                    assert_eq!(i64::from(tch::Scalar::from(number)), number);
                } else {
                    assert_eq!(f64::from(tch::Scalar::from(fraction)), fraction);
                }
                let sum = tch::Tensor::from_slice(&[fraction, 1.0]).sum(tch::Kind::Double);
                assert_eq!(f64::try_from(sum).unwrap(), fraction + 1.0);
            });
        }
    });
    diptych_trainer::open_libtorch().unwrap();
}
