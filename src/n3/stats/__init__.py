"""Statistics: labelled results, compared, summarised and fitted."""
