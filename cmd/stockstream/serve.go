package main

import (
	"runtime/debug"

	"github.com/spf13/cobra"
)

func newServe(config *Config) *cobra.Command {
	return &cobra.Command{
		Use:   "serve",
		Short: "Run the service, or some of its roles, on an existing Redis and Postgres",
		Long: "Run the service. Redis and Postgres need not be up when it starts, and may become unavailable later: the\n" +
			"service waits for them, reports this in /readyz and in the log, and then continues. Without the role api, it\n" +
			"serves only /livez and /readyz.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log := config.logger(cmd.ErrOrStderr())
			a, err := newApp(cmd.Context(), config, log)
			if err != nil {
				return err
			}
			log.Info("serving", "url", "http://"+a.addr(), "roles", config.Roles)
			return a.run(cmd.Context())
		},
	}
}

// version is the version of a release; the linker sets it. In other builds it is empty.
var version = ""

func newVersion() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version of this build",
		Args:  cobra.NoArgs,
		// This overrides the check of the settings: the command must work even if they
		// are invalid.
		PersistentPreRun: func(*cobra.Command, []string) {},
		Run: func(cmd *cobra.Command, _ []string) {
			info, _ := debug.ReadBuildInfo()
			name := version
			if name == "" && info != nil {
				name = info.Main.Version
			}
			goVersion := ""
			if info != nil {
				goVersion = info.GoVersion
			}
			cmd.Println("stockstream", name, goVersion)
		},
	}
}
