//! A message that the process dies of.

use crate::program::{Place, run};

#[test]
fn what_the_process_dies_of_is_given_up_and_the_others_pass() {
    let place = Place::new();
    let lines: Vec<String> = (0..40).map(|number| format!("text {number}")).collect();
    let mut list = lines.clone();
    list.insert(3, "poison".into());
    place.write("list", list.join("\n"));
    let args = ["--option", "abort=poison", "--attempts", "3"];
    let mut deaths = 0;
    let ended = loop {
        let ended = run(place.stream("echo", &args));
        if ended.code.is_some() {
            break ended;
        }
        deaths += 1;
        assert!(deaths < 10, "it dies for ever: {}", ended.stderr);
    };
    assert_eq!(deaths, 3);
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert!(
        ended.stderr.contains("1 messages were given up"),
        "{}",
        ended.stderr
    );
    let rows = place.rows();
    assert_eq!(rows.len(), 41);
    let given_up: Vec<_> = rows.iter().filter(|row| row.status == "gave_up").collect();
    assert_eq!(given_up.len(), 1);
    let error = given_up[0].error.as_deref().unwrap();
    assert!(error.contains("3 processes died"), "{error}");
    for line in lines {
        let answer = serde_json::to_string(&line).unwrap();
        let rows = rows
            .iter()
            .filter(|row| row.answer.as_ref() == Some(&answer));
        assert_eq!(rows.count(), 1, "{line}");
    }
    assert_eq!(place.begun(), 0);
}
