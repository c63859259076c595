package login

// ReturnPath is the path to which somebody returns after a log-in that was begun for a path.
func ReturnPath(path string) string {
	return (&Login{opts: Options{Path: "/.login"}}).returnPath(path)
}
