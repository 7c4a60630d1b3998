// Reads what deploy/ holds for other programs by those programs' own code, and prints as JSON what it understood:
//
//	deploy-check compose FILE    a composed cluster, held against the Compose specification, variables filled in
//	deploy-check rules FILE      Prometheus's rules, each with the series that it asks for
//	deploy-check promql          expressions on standard input, one a line, the same
//	deploy-check yaml            the documents on standard input, as a list
//
// It exits with 1 and a sentence where something cannot be read.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sort"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
	"go.yaml.in/yaml/v3"
)

// Series is what an expression asks for: a metric, and the labels that it goes by.
type Series struct {
	Metric string   `json:"metric"`
	Labels []string `json:"labels"`
}

type rule struct {
	Alert       string            `json:"alert"`
	Expr        string            `json:"expr"`
	For         string            `json:"for"`
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
	Series      []Series          `json:"series"`
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 2 && args[0] == "compose":
		return compose(args[1])
	case len(args) == 2 && args[0] == "rules":
		return rules(args[1])
	case len(args) == 1 && args[0] == "promql":
		return expressions()
	case len(args) == 1 && args[0] == "yaml":
		return documents()
	}
	return errors.New("use: deploy-check compose FILE | rules FILE | promql | yaml")
}

func documents() error {
	all := []any{}
	decoder := yaml.NewDecoder(os.Stdin)
	for {
		var one any
		err := decoder.Decode(&one)
		if errors.Is(err, io.EOF) {
			return json.NewEncoder(os.Stdout).Encode(all)
		}
		if err != nil {
			return err
		}
		if one != nil {
			all = append(all, one)
		}
	}
}

func compose(file string) error {
	options, err := cli.NewProjectOptions([]string{file}, cli.WithOsEnv, cli.WithWorkingDirectory(filepath.Dir(file)))
	if err != nil {
		return err
	}
	// Against the schema, and then what no schema says: that what is named is there.
	project, err := options.LoadProject(context.Background())
	if err != nil {
		return err
	}
	text, err := project.MarshalJSON()
	if err != nil {
		return err
	}
	_, err = os.Stdout.Write(text)
	return err
}

func rules(file string) error {
	groups, found := rulefmt.ParseFile(file, false, model.UTF8Validation, parser.NewParser(parser.Options{}), slog.Default())
	if len(found) > 0 {
		return errors.Join(found...)
	}
	all := []rule{}
	for _, group := range groups.Groups {
		for _, one := range group.Rules {
			series, err := asked(one.Expr)
			if err != nil {
				return fmt.Errorf("%s: %w", one.Alert, err)
			}
			all = append(all, rule{one.Alert, one.Expr, one.For.String(), one.Labels, one.Annotations, series})
		}
	}
	return json.NewEncoder(os.Stdout).Encode(all)
}

func expressions() error {
	all := []Series{}
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		series, err := asked(lines.Text())
		if err != nil {
			return fmt.Errorf("%s: %w", lines.Text(), err)
		}
		all = append(all, series...)
	}
	if err := lines.Err(); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(all)
}

// Each metric of an expression with the labels by which it is chosen, and by which it is summed or joined.
func asked(text string) ([]Series, error) {
	expr, err := parser.NewParser(parser.Options{}).ParseExpr(text)
	if err != nil {
		return nil, err
	}
	found := map[string]map[string]bool{}
	parser.Inspect(expr, func(node parser.Node, path []parser.Node) error {
		selector, is := node.(*parser.VectorSelector)
		if !is {
			return nil
		}
		named := map[string]bool{}
		for _, matcher := range selector.LabelMatchers {
			if matcher.Name != labels.MetricName {
				named[matcher.Name] = true
			}
		}
		for _, above := range path {
			switch above := above.(type) {
			case *parser.AggregateExpr:
				for _, label := range above.Grouping {
					named[label] = true
				}
			case *parser.BinaryExpr:
				if above.VectorMatching != nil {
					for _, label := range above.VectorMatching.MatchingLabels {
						named[label] = true
					}
				}
			}
		}
		known, is := found[selector.Name]
		if !is {
			known = map[string]bool{}
			found[selector.Name] = known
		}
		for label := range named {
			known[label] = true
		}
		return nil
	})
	series := []Series{}
	for metric, named := range found {
		list := []string{}
		for label := range named {
			list = append(list, label)
		}
		sort.Strings(list)
		series = append(series, Series{metric, list})
	}
	sort.Slice(series, func(one, two int) bool { return series[one].Metric < series[two].Metric })
	return series, nil
}
