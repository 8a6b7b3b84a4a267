//! `GET /health`: whether the engine answers, and fastDeploy's conditions on top of it.

use std::time::{Duration, Instant};

use axum::{
    Json,
    extract::{Request, State as Extract},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use url::form_urlencoded;
use utoipa::ToSchema;

use super::{NotFound, answer::Encoding, named_recipe, recipe_of};
use crate::http::{
    AppState, activity::HORIZON, error::ApiError, openapi::Described, state::ServedRecipe,
};

/// A bound on a recipe's recent requests.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Condition {
    /// More than this percentage failed within the window.
    Failed(Duration, f64),
    /// More than this percentage ran out of time within the window. (As in fastDeploy, whose name for it does not say
    /// that it is a percentage.)
    TimedOut(Duration, f64),
    /// A request has been waiting for longer.
    Pending(Duration),
    /// The server has been up for longer.
    UpTime(Duration),
}

/// Whether the engine answers.
#[derive(Serialize, ToSchema)]
struct Health<'a> {
    status: &'static str,
    recipes: Vec<&'a str>,
    /// In seconds
    up_time: f64,
}

/// Why it is not healthy.
#[derive(Serialize, ToSchema)]
struct Failing<'a> {
    status: &'static str,
    recipe: &'a str,
    reason: String,
}

/// Whether the engine answers: within the last seconds, or when it is asked now
///
/// Of one recipe if it is named, otherwise of all: any that fails fails it. Each condition fails it besides.
#[utoipa::path(
    get,
    path = "",
    tag = "operators",
    params(
        ("recipe" = Option<String>, Query, description = "The recipe, where the path names none"),
        ("fail_if_percentage_of_requests_failed_in_last_x_seconds_is_more_than_y" = Option<String>, Query,
            description = "X,Y: at most 3600 seconds, and a percentage"),
        ("fail_if_requests_timedout_in_last_x_seconds_is_more_than_y" = Option<String>, Query,
            description = "X,Y: at most 3600 seconds, and a percentage"),
        ("fail_if_requests_older_than_x_seconds_pending" = Option<f64>, Query, minimum = 0),
        ("fail_if_up_time_more_than_x_seconds" = Option<f64>, Query, minimum = 0),
    ),
    responses(
        (status = 200, description = "Healthy", body = Health<'static>),
        (status = 503, description = "Not healthy", body = Failing<'static>),
        Described<NotFound>,
    )
)]
pub(super) async fn health(Extract(state): Extract<AppState>, request: Request) -> Response {
    let recipes = match named_recipe(request.uri()) {
        Some(_) => recipe_of(&state, request.uri()).map(std::slice::from_ref),
        None => Ok(state.recipes()),
    };
    let conditions = conditions(request.uri().query());
    let (recipes, conditions) = match recipes.and_then(|recipes| Ok((recipes, conditions?))) {
        Ok(parsed) => parsed,
        Err(error) => return Encoding::default().error(None, &error),
    };
    for recipe in recipes {
        if let Err(error) = check(&state, recipe, &conditions).await {
            let body = Failing {
                status: "failing",
                recipe: recipe.name(),
                reason: error.to_string(),
            };
            return (error.status(), Json(body)).into_response();
        }
    }
    Json(Health {
        status: "ok",
        recipes: recipes.iter().map(|recipe| recipe.name()).collect(),
        up_time: state.uptime().as_secs_f64(),
    })
    .into_response()
}

async fn check(
    state: &AppState,
    recipe: &ServedRecipe,
    conditions: &[Condition],
) -> Result<(), ApiError> {
    for condition in conditions {
        condition
            .check(state, recipe)
            .map_err(ApiError::Unhealthy)?;
    }
    // Whatever keeps the engine from answering, the server is not healthy: never a 500 or 504 here.
    let probe = recipe.served.probe(state.config().health_window).await;
    probe.map_err(|error| ApiError::Unhealthy(error.to_string()))
}

impl Condition {
    fn check(self, state: &AppState, recipe: &ServedRecipe) -> Result<(), String> {
        let now = Instant::now();
        let above = |count: u64, ended: u64, percent: f64| {
            ended > 0 && count as f64 * 100.0 > percent * ended as f64
        };
        let (fails, reason) = match self {
            Self::Failed(window, percent) => {
                let counts = recipe.activity.within(window, now);
                let reason = format!(
                    "more than {percent}% of requests failed in the last {} s",
                    window.as_secs_f64()
                );
                (above(counts.failed, counts.ended, percent), reason)
            }
            Self::TimedOut(window, percent) => {
                let counts = recipe.activity.within(window, now);
                let reason = format!(
                    "more than {percent}% of requests timed out in the last {} s",
                    window.as_secs_f64()
                );
                (above(counts.timed_out, counts.ended, percent), reason)
            }
            Self::Pending(age) => {
                let reason = format!(
                    "a request has been pending for more than {} s",
                    age.as_secs_f64()
                );
                (recipe.activity.has_pending_older_than(age, now), reason)
            }
            Self::UpTime(limit) => (
                state.uptime() > limit,
                format!("up for more than {} s", limit.as_secs_f64()),
            ),
        };
        if fails { Err(reason) } else { Ok(()) }
    }
}

fn conditions(query: Option<&str>) -> Result<Vec<Condition>, ApiError> {
    let mut conditions = Vec::new();
    for (key, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
        let malformed = |expected: &str| ApiError::malformed(format!("{key}: expected {expected}"));
        let pair = || {
            let (window, percent) = value.split_once(',')?;
            Some((
                seconds(window).filter(|window| *window <= HORIZON)?,
                number(percent)?,
            ))
        };
        let pair = || pair().ok_or_else(|| malformed("X,Y: at most 3600 seconds and a percentage"));
        let age = || seconds(&value).ok_or_else(|| malformed("a number of seconds"));
        conditions.push(match &*key {
            "fail_if_percentage_of_requests_failed_in_last_x_seconds_is_more_than_y" => {
                pair().map(|(window, percent)| Condition::Failed(window, percent))?
            }
            "fail_if_requests_timedout_in_last_x_seconds_is_more_than_y" => {
                pair().map(|(window, percent)| Condition::TimedOut(window, percent))?
            }
            "fail_if_requests_older_than_x_seconds_pending" => Condition::Pending(age()?),
            "fail_if_up_time_more_than_x_seconds" => Condition::UpTime(age()?),
            _ => continue,
        });
    }
    Ok(conditions)
}

fn seconds(text: &str) -> Option<Duration> {
    Duration::try_from_secs_f64(number(text)?).ok()
}

fn number(text: &str) -> Option<f64> {
    text.trim()
        .parse()
        .ok()
        .filter(|number: &f64| number.is_finite() && *number >= 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_read_or_refused_by_name() {
        let second = Duration::from_secs;
        let query = "fail_if_percentage_of_requests_failed_in_last_x_seconds_is_more_than_y=30,%205.5\
            &fail_if_requests_timedout_in_last_x_seconds_is_more_than_y=60,1&x=y\
            &fail_if_requests_older_than_x_seconds_pending=3&fail_if_up_time_more_than_x_seconds=1e3";
        let expected = [
            Condition::Failed(second(30), 5.5),
            Condition::TimedOut(second(60), 1.0),
            Condition::Pending(second(3)),
            Condition::UpTime(second(1000)),
        ];
        assert_eq!(conditions(Some(query)).unwrap(), expected);
        for value in [
            "", "5", "a,b", "-1,2", "1,-2", "NaN,1", "1,inf", "3601,1", "1,2,3",
        ] {
            let query =
                format!("fail_if_requests_timedout_in_last_x_seconds_is_more_than_y={value}");
            let error = conditions(Some(&query)).unwrap_err();
            assert!(
                error.to_string().contains("timedout") && error.status() == 400,
                "{value}: {error}"
            );
        }
        for value in ["", "x", "-1", "1,2", "inf", "1e40"] {
            assert!(
                conditions(Some(&format!(
                    "fail_if_up_time_more_than_x_seconds={value}"
                )))
                .is_err(),
                "{value}"
            );
        }
    }
}
