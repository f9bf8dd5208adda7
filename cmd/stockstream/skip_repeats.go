package main

// skipRepeats returns a function that calls report, except for an error with the same
// text as the one before.
func skipRepeats(report func(error)) func(error) {
	var lastReported string
	return func(err error) {
		if err.Error() != lastReported {
			lastReported = err.Error()
			report(err)
		}
	}
}
