//! Statistics as a human-readable table.

/// Name suffixes of the statistics of a kind of request, and the headings of their columns.
const COLUMNS: [(&str, &str); 4] =
    [("_count", "count"), ("_p50_us", "p50 us"), ("_p99_us", "p99 us"), ("_p999_us", "p99.9 us")];

/// Single statistics, one per line, then a row for each kind of request.
pub(crate) fn table(stats: &[(String, u64)]) -> String {
    let kind = |name: &str| COLUMNS.iter().find_map(|(end, _)| name.strip_suffix(end)).map(str::to_owned);
    let mut kinds: Vec<String> = stats.iter().filter_map(|(name, _)| kind(name)).collect();
    kinds.dedup();
    let single: Vec<&(String, u64)> = stats.iter().filter(|(name, _)| kind(name).is_none()).collect();
    let names = single.iter().map(|(name, _)| name.len()).chain(kinds.iter().map(String::len));
    let width = names.max().unwrap_or_default();
    let mut lines: Vec<String> =
        single.iter().map(|(name, figure)| format!("  {name:width$}  {figure:>12}\n")).collect();
    if !kinds.is_empty() {
        let heads: String = COLUMNS.iter().map(|(_, head)| format!("  {head:>12}")).collect();
        lines.push(format!("  {:width$}{heads}\n", ""));
    }
    for kind in kinds {
        let figure = |end: &str| stats.iter().find(|(name, _)| name.strip_suffix(end) == Some(&kind));
        let figures: String = COLUMNS
            .iter()
            .map(|(end, _)| {
                format!("  {:>12}", figure(end).map_or_else(|| "-".to_owned(), |(_, figure)| figure.to_string()))
            })
            .collect();
        lines.push(format!("  {kind:width$}{figures}\n"));
    }
    lines.concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_one_kind_are_one_row() {
        let stats = [("keys", 7), ("get_count", 2), ("get_p50_us", 30), ("get_p99_us", 40), ("get_p999_us", 1_000_000)];
        let stats: Vec<(String, u64)> = stats.iter().map(|(name, figure)| ((*name).to_owned(), *figure)).collect();
        let expected = "  keys             7\n\
                        \x20              count        p50 us        p99 us      p99.9 us\n\
                        \x20 get              2            30            40       1000000\n";
        assert_eq!(table(&stats), expected);
        assert_eq!(table(&stats[..1]), "  keys             7\n");
        assert_eq!(table(&[]), "");
    }
}
