//! Runs in the background, plain and ragged: results, errors, deadlines, cancelling.
//!
//! Nothing here depends on how fast the machine is: a run that is to be cut short never ends by
//! itself.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use deepseek::{
    Cancel, Code, DType, GraphBuilder, Lists, Model, RunOptions, Runtime, RuntimeOptions, Session,
    Tensor, Value, parse_attrs,
};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

fn runtime() -> Runtime {
    Runtime::new(&RuntimeOptions { threads: 2, ..Default::default() }).unwrap()
}

/// `y = -x` for rows `[batch, seq, 2]`, after as many rounds of a loop as the scalar `rounds` says.
fn looping(runtime: &Runtime) -> Model {
    let mut graph = GraphBuilder::new("looping");
    let x = graph.input("x", DType::F32, &["batch", "seq", "2"]).unwrap();
    let rounds = graph.input("rounds", DType::I64, &[]).unwrap();
    let start = graph.constant("start", Tensor::zeros(DType::F32, &[8, 8]).unwrap()).unwrap();
    let body = "carried = 1, body = graph \"body\" { input %i: i64[] input %go: bool[] \
                input %v: f32[8, 8] %w = MatMul(%v, %v) output \"go\" = %go output \"w\" = %w }";
    let body = parse_attrs(body).unwrap();
    let z = graph.node("Loop", "", body, &[Some(rounds), None, Some(start)], 1).unwrap();
    let y = graph.node("Neg", "", Default::default(), &[Some(x)], 1).unwrap();
    graph.output("y", y[0]).unwrap();
    graph.output("z", z[0]).unwrap();
    graph.build(runtime).unwrap()
}

const ENDLESS: i64 = i64::MAX;

fn lists(rounds: i64) -> Lists {
    let row = |n: usize| Tensor::from_vec(&[n, 2], vec![n as f32; 2 * n]).unwrap();
    vec![
        ("x".into(), vec![row(3), row(1), row(4)]),
        ("rounds".into(), vec![Tensor::scalar(rounds).unwrap()]),
    ]
}

fn batch(rounds: i64) -> Vec<(String, Value)> {
    vec![
        ("x".into(), Tensor::from_vec(&[1, 1, 2], vec![1.0f32, 2.0]).unwrap().into()),
        ("rounds".into(), Tensor::scalar(rounds).unwrap().into()),
    ]
}

fn bits(lists: &Lists) -> Vec<(String, Vec<Vec<u8>>)> {
    let bytes = |t: &Tensor| t.to_contiguous().unwrap().as_bytes().unwrap().to_vec();
    lists.iter().map(|(name, list)| (name.clone(), list.iter().map(bytes).collect())).collect()
}

#[test]
fn ragged_runs_in_the_background_give_the_same() {
    let session = looping(&runtime()).session();
    let want = session.run_ragged(lists(2), &RunOptions::default()).unwrap();
    assert_eq!(want[0].1.iter().map(|t| t.shape()[0]).collect::<Vec<_>>(), [3, 1, 4]);
    let heard = Arc::new(AtomicU32::new(0));
    let (heard_too, expected) = (heard.clone(), bits(&want));
    let run = session.run_ragged_async(lists(2), &RunOptions::default(), move |result| {
        assert_eq!(bits(result.as_ref().unwrap()), expected);
        heard_too.fetch_add(1, Ordering::SeqCst);
    });
    let run = run.unwrap();
    drop(session); // The run keeps what it needs.
    let got = run.wait(None).unwrap().unwrap().unwrap();
    assert_eq!(heard.load(Ordering::SeqCst), 1, "called before the waiters wake");
    assert_eq!(bits(&got), bits(&want));
    assert_eq!(run.wait(None).err().unwrap().code(), Code::InvalidState);
}

#[test]
fn an_error_is_the_result_of_the_run() {
    let session = looping(&runtime()).session();
    let wrong = vec![("words".into(), Vec::new())];
    let run = session.run_ragged_async(wrong, &RunOptions::default(), |_| ()).unwrap();
    assert_eq!(run.wait(None).unwrap().unwrap().unwrap_err().code(), Code::NotFound);
    session.close();
    let closed = session.run_ragged_async(lists(0), &RunOptions::default(), |_| ());
    assert_eq!(closed.err().unwrap().code(), Code::InvalidState);
}

/// How a run in the background ends that `stop` stops.
fn stopped(
    session: &Session,
    ragged: bool,
    options: &RunOptions,
    stop: impl FnOnce(&dyn Fn()),
) -> Code {
    let (tell, told) = mpsc::channel();
    if ragged {
        let done = move |r: &deepseek::Result<Lists>| tell.send(r.clone().map(drop)).unwrap();
        let run = session.run_ragged_async(lists(ENDLESS), options, done).unwrap();
        assert!(run.wait(Some(Duration::ZERO)).unwrap().is_none() || options.timeout.is_some());
        stop(&|| run.cancel());
    } else {
        let done = move |r: &deepseek::Result<deepseek::Outputs>| {
            tell.send(r.clone().map(drop)).unwrap();
        };
        let run = session.run_async(batch(ENDLESS), options, done).unwrap();
        stop(&|| run.cancel());
    }
    told.recv().unwrap().unwrap_err().code()
}

#[test]
fn background_runs_end_when_they_should() {
    let session = looping(&runtime()).session();
    for ragged in [false, true] {
        let none = RunOptions::default();
        assert_eq!(stopped(&session, ragged, &none, |cancel| cancel()), Code::Cancelled);
        // Right after the start, whether or not the run has got anywhere.
        assert_eq!(stopped(&session, ragged, &none, |_| session.cancel()), Code::Cancelled);
        let cancel = Cancel::new();
        let flagged = RunOptions { cancel: Some(cancel.clone()), ..Default::default() };
        assert_eq!(stopped(&session, ragged, &flagged, |_| cancel.cancel()), Code::Cancelled);
        let soon = RunOptions { timeout: Some(Duration::from_millis(5)), ..Default::default() };
        assert_eq!(stopped(&session, ragged, &soon, |_| ()), Code::Timeout);
        // One that waits for its turn behind another ends as well.
        let other = session.run_async(batch(ENDLESS), &none, |_| ()).unwrap();
        assert_eq!(stopped(&session, ragged, &soon, |_| ()), Code::Timeout);
        assert_eq!(stopped(&session, ragged, &none, |cancel| cancel()), Code::Cancelled);
        other.cancel();
        assert_eq!(other.wait(None).unwrap().unwrap().unwrap_err().code(), Code::Cancelled);
    }
    // After all that, the session is as good as new.
    session.run_ragged(lists(1), &RunOptions::default()).unwrap();
}

#[test]
fn closing_ends_a_background_run() {
    for ragged in [false, true] {
        let session = looping(&runtime()).session();
        let none = RunOptions::default();
        assert_eq!(stopped(&session, ragged, &none, |_| session.close()), Code::Cancelled);
    }
}
