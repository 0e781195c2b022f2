package jsonrpc

import (
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/protomicro/micro/runtime/server"
	"github.com/protomicro/micro/runtime/status"
)

// The tests here take the tables of errors from docs/protocol.md, so that a row cannot
// say what is not so, and cannot be there without a test.

// table is the cells of the rows of the one table that has this header.
func table(t *testing.T, header string) (rows [][]string) {
	t.Helper()
	b, err := os.ReadFile("../../docs/protocol.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, ok := strings.Cut(string(b), "\n"+header+"\n")
	if !ok || strings.Contains(text, "\n"+header+"\n") {
		t.Fatalf("docs/protocol.md has not one table with the header %s", header)
	}
	for i, line := range strings.Split(text, "\n") {
		switch {
		case i == 0: // |---|
		case !strings.HasPrefix(line, "|"):
			if rows == nil {
				t.Fatalf("the table with the header %s is empty", header)
			}
			return rows
		default:
			var cells []string
			for c := range strings.SplitSeq(strings.Trim(line, "|"), "|") {
				cells = append(cells, strings.TrimSpace(c))
			}
			rows = append(rows, cells)
		}
	}
	return rows
}

var number = regexp.MustCompile(`-\d+`)

// numberIn is the first number of a cell.
func numberIn(t *testing.T, cell string) int {
	t.Helper()
	n, err := strconv.Atoi(number.FindString(cell))
	if err != nil {
		t.Fatalf("no number in %q", cell)
	}
	return n
}

var (
	text2 = regexp.MustCompile(`("code":-\d+,"message":)"(?:[^"\\]|\\.)*"`)
	text1 = regexp.MustCompile(`("error":"[a-z_]+)(?:[^"\\]|\\.)*"`)
)

// withoutText is an answer, or a batch of them, without the texts of its errors.
func withoutText(answer string) string {
	return text1.ReplaceAllString(text2.ReplaceAllString(answer, `$1""`), `$1"`)
}

// answer2 is an error of 2.0, and answer1 one of 1.0, without their texts.
func answer2(id string, number int, code status.Code) string {
	return fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"error":{"code":%d,"message":"","data":{"code":%q}}}`, id, number, code)
}

func answer1(id string, code status.Code) string {
	return fmt.Sprintf(`{"id":%s,"result":null,"error":"%s","micro":{"code":%[2]q}}`, id, code)
}

// TestCodes has a handler fail with each code.
func TestCodes(t *testing.T) {
	numbers := make(map[status.Code]int)
	for _, row := range table(t, "| Code | Number in 2.0 | | Code | Number in 2.0 |") {
		for i := 0; i+1 < len(row); i += 3 {
			code, ok := status.ParseCode(strings.Trim(row[i], "`"))
			if !ok || numbers[code] != 0 {
				t.Errorf("%s is no code, or stands there twice", row[i])
			}
			numbers[code] = numberIn(t, row[i+1])
		}
	}
	if len(numbers) != 16 {
		t.Errorf("%d codes", len(numbers))
	}
	everywhere(t, settings{}, func(t *testing.T, p *peer) {
		for code, number := range numbers {
			const params = `"method":"echo.v1.Echo/Fail","params":{"code":%d,"message":"no \"%[1]d\""}}`
			got := p.ask(t, fmt.Sprintf(`{"jsonrpc":"2.0","id":1,`+params, code))
			if want := fmt.Sprintf(`{"jsonrpc":"2.0","id":1,"error":{"code":%d,"message":"no \"%d\"","data":{"code":%q}}}`, number, code, code); got != want {
				t.Errorf("%v: got %s, want %s", code, got, want)
			}
			got = p.ask(t, fmt.Sprintf(`{"id":1,`+params, code))
			if want := fmt.Sprintf(`{"id":1,"result":null,"error":"%s: no \"%d\"","micro":{"code":%q}}`, code, code, code); got != want {
				t.Errorf("%v in 1.0: got %s, want %s", code, got, want)
			}
		}
		// What a handler does not say is not sent, in either version.
		const secret = `"method":"echo.v1.Echo/Fail","params":[{"plain":true,"message":"secret"}]}`
		if got, want := p.ask(t, `{"jsonrpc":"2.0","id":1,`+secret), answer2("1", numbers[status.Unknown], status.Unknown); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		if got, want := p.ask(t, `{"id":1,`+secret), answer1("1", status.Unknown); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	})
}

// examples are the rows of a table by their first cells, which are prose, with requests
// for each.
type examples map[string][]string

// check holds that the table has these rows and no other, and hands each example over.
func (e examples) check(t *testing.T, rows [][]string, f func(row []string, request string)) {
	t.Helper()
	var said []string
	for _, row := range rows {
		said = append(said, row[0])
		if len(e[row[0]]) == 0 {
			t.Errorf("no example for %q", row[0])
		}
		for _, request := range e[row[0]] {
			f(row, request)
		}
	}
	for row := range maps.Keys(e) {
		if !slices.Contains(said, row) {
			t.Errorf("docs/protocol.md does not say %q", row)
		}
	}
}

// TestNotRequests has what is not a request. Where the row says that the id is the
// request's, that of the examples is 7.
func TestNotRequests(t *testing.T) {
	rows := table(t, "| | Number | Id of the answer |")
	const method = `"method":"echo.v1.Echo/Echo"`
	e := examples{
		"not JSON":       {`{"jsonrpc":"2.0`, `[`, `[{"jsonrpc":"2.0","id":7,` + method + `},{]`, `{}{}`, `{"id":` + strings.Repeat("[", 10_001) + strings.Repeat("]", 10_001) + `}`},
		"an empty batch": {`[]`, " [ ]\n"},
		"a value that is not an object, as a request or in a batch; a batch that opens a stream": {`[7]`, `["x"]`, `[null]`, `[[]]`, `[[{"jsonrpc":"2.0","id":7,` + method + `}]]`},
		"a member of the envelope twice": {`{"jsonrpc":"2.0","jsonrpc":"2.0","id":7,` + method + `}`, `{"jsonrpc":"2.0","id":7,"id":7,` + method + `}`,
			`{"jsonrpc":"2.0","id":7,` + method + `,` + method + `}`, `{"jsonrpc":"2.0","id":7,` + method + `,"params":[],"params":[]}`, `{"jsonrpc":"2.0","id":7,` + method + `,"micro":{},"micro":{}}`},
		"an id of another type; neither an id nor a method": {`{"jsonrpc":"2.0","id":true,` + method + `}`, `{"jsonrpc":"2.0","id":[7],` + method + `}`, `{"jsonrpc":"2.0","id":{},` + method + `}`,
			`{"jsonrpc":"2.0"}`, `{}`, `{"foo":"boo"}`},
		"another `jsonrpc` than the above; a `method` that is missing, empty or not a string": {`{"jsonrpc":"2.1","id":7,` + method + `}`, `{"jsonrpc":2,"id":7,` + method + `}`, `{"jsonrpc":"2.0","id":7}`,
			`{"jsonrpc":"2.0","id":7,"method":""}`, `{"jsonrpc":"2.0","id":7,"method":7}`, `{"jsonrpc":"2.0","id":7,"method":null}`},
		"`params` or `micro` of another form than the above; a message that is not the method's": {`{"jsonrpc":"2.0","id":7,` + method + `,"params":7}`, `{"jsonrpc":"2.0","id":7,` + method + `,"params":"x"}`,
			`{"jsonrpc":"2.0","id":7,` + method + `,"micro":7}`, `{"jsonrpc":"2.0","id":7,` + method + `,"micro":{"timeout":"soon"}}`, `{"jsonrpc":"2.0","id":7,` + method + `,"micro":{"metadata":{}}}`,
			`{"jsonrpc":"2.0","id":7,` + method + `,"params":{"text":7}}`, `{"jsonrpc":"2.0","id":7,` + method + `,"params":[7]}`, `{"jsonrpc":"2.0","id":7,` + method + `,"params":["a","AA==",[],"d"]}`},
	}
	everywhere(t, settings{}, func(t *testing.T, p *peer) {
		e.check(t, rows, func(row []string, request string) {
			id := idOf(t, row[2])
			want := answer2(id, numberIn(t, row[1]), status.InvalidArgument)
			if strings.HasPrefix(request, "[") && want[0] != '[' && !strings.HasPrefix(strings.TrimSpace(request[1:]), "]") && isJSON(request) {
				want = "[" + want + "]" // in a batch
			}
			if got := withoutText(p.ask(t, request)); got != want {
				t.Errorf("%s: %.100s is answered with\n%s, want\n%s", row[0], request, got, want)
			}
			// The same in 1.0, which has no numbers, is told from 2.0 by an id or a method.
			old := strings.ReplaceAll(request, `"jsonrpc":"2.0",`, "")
			if id != "7" || strings.Contains(old, "jsonrpc") {
				return
			}
			if got, want := withoutText(p.ask(t, old)), answer1(id, status.InvalidArgument); got != want {
				t.Errorf("%s: %.100s is answered with\n%s, want\n%s", row[0], old, got, want)
			}
		})
	})
}

func isJSON(s string) bool { return strings.HasSuffix(s, "]") && !strings.HasSuffix(s, "{]") }

func idOf(t *testing.T, cell string) string {
	t.Helper()
	switch cell {
	case "null":
		return "null"
	case "the request's":
		return "7"
	}
	t.Fatalf("the id of an answer is %q", cell)
	return ""
}

// TestBatchesRefused has what refuses a batch as a whole.
func TestBatchesRefused(t *testing.T) {
	rows := table(t, "| Refused as a whole | Number | Id of the answer |")
	batch := func(n int) string {
		const one = `{"jsonrpc":"2.0","id":7,"method":"echo.v1.Echo/Echo","params":["hi"]}`
		return "[" + strings.Repeat(one+",", n-1) + one + "]"
	}
	e := examples{
		"an array without elements": {`[]`},
		"more than 100 requests":    {batch(101), "[" + strings.Repeat("1,", 100) + "1]"},
		"responses that are together larger than the transport carries: the requests have run": {batch(100)},
	}
	// A response is larger than its request by the name of its instance.
	cfg := settings{Config: server.Config{ID: strings.Repeat("i", 128)}, maxMessage: 16_000}
	everywhere(t, cfg, func(t *testing.T, p *peer) {
		e.check(t, rows, func(row []string, request string) {
			code := status.ResourceExhausted
			if numberIn(t, row[1]) == -32600 {
				code = status.InvalidArgument
			}
			before := p.Calls("echo.v1.Echo/Echo")
			if got, want := withoutText(p.ask(t, request)), answer2(idOf(t, row[2]), numberIn(t, row[1]), code); got != want {
				t.Errorf("%s: got\n%.300s, want\n%s", row[0], got, want)
			}
			wantCalls := uint64(0)
			if strings.HasSuffix(row[0], "the requests have run") {
				wantCalls = 100
			}
			if n := p.Calls("echo.v1.Echo/Echo") - before; n != wantCalls {
				t.Errorf("%s: %d calls have run", row[0], n)
			}
		})
		if got := p.ask(t, batch(10)); strings.Count(got, `"result"`) != 10 {
			t.Errorf("got %s", got)
		}
	})
}
