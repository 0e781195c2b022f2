package generator

import (
	"fmt"
	"strings"
)

// maxTopicName bounds the names of topics, in bytes. With what fields put into them,
// they may be longer.
const maxTopicName = 255

// reservedWords are the first words of subjects that are not events.
var reservedWords = map[string]string{
	"dead":   "with which the topics of dead letters begin",
	"micro":  "with which the subjects of calls begin",
	"_INBOX": "with which NATS begins the subjects of replies",
}

// A word of a topic's name is text, or the path of a field that stands for a word.
type word struct {
	text      string
	parameter bool
}

func (w word) String() string {
	if w.parameter {
		return "{" + w.text + "}"
	}
	return w.text
}

// parseTopicName is the words of name. What is wrong with it goes to fault; the words
// are nil then.
func parseTopicName(name string, fault func(what, remedy string)) []word {
	if name == "" {
		fault("the name is empty", `give it one, such as name: "orders.placed"`)
		return nil
	}
	if len(name) > maxTopicName {
		fault(fmt.Sprintf("the name has %d bytes", len(name)), fmt.Sprintf("at most %d are allowed", maxTopicName))
		return nil
	}
	texts, what := splitTopicName(name)
	if what != "" {
		fault(what, "write a parameter as {field}")
		return nil
	}
	ok, empty := true, false
	wrong := func(what, remedy string) {
		ok = false
		fault(what, remedy)
	}
	var words []word
	parameters := make(map[string]bool)
	for _, text := range texts {
		path, isParameter := parameterPath(text)
		switch {
		case text == "":
			if !empty {
				wrong("there is an empty word", "put one dot between words, and none at the ends")
			}
			empty = true
		case isParameter && (path == "" || strings.Contains("."+path+".", "..")):
			wrong(text+" names no field", "write a parameter as {field} or {field.field}")
		case isParameter && parameters[path]:
			wrong("the parameter "+text+" is there twice", "put another field into one of the two places")
		case isParameter:
			parameters[path] = true
		case strings.Contains(text, "{"):
			begin, end := strings.IndexByte(text, '{'), strings.IndexByte(text, '}')
			wrong(fmt.Sprintf("%s is only a part of the word %q", text[begin:end+1], text), "a parameter is a whole word, between dots")
		case text == "*" || text == ">":
			wrong(fmt.Sprintf("%q is not a word", text), "a parameter, such as {region}, stands for what differs between events")
		default:
			if i := strings.IndexFunc(text, notPlain); i >= 0 {
				r := []rune(text[i:])[0]
				wrong(fmt.Sprintf("the word %q has the character %q", text, r), "words are letters, digits, '-' and '_'")
			}
		}
		words = append(words, word{path, isParameter})
	}
	if first := words[0].String(); ok && reservedWords[first] != "" {
		wrong(fmt.Sprintf("it begins with the word %q, %s", first, reservedWords[first]), "use another first word")
	}
	if ok && len(parameters) == len(words) {
		wrong("all its words are parameters, so it stands for subjects that are not events", "add a word that is always the same")
	}
	if !ok {
		return nil
	}
	return words
}

// splitTopicName splits name at its dots, but for those in braces, or says what is
// wrong with the braces.
func splitTopicName(name string) (texts []string, what string) {
	begin, open := 0, -1
	for i := range len(name) {
		switch c := name[i]; {
		case c == '{' && open >= 0:
			return nil, fmt.Sprintf("there is a '{' inside of %q", name[open:])
		case c == '{':
			open = i
		case c == '}' && open < 0:
			return nil, fmt.Sprintf("there is a '}' without a '{' in %q", name[begin:i+1])
		case c == '}':
			open = -1
		case c == '.' && open < 0:
			texts = append(texts, name[begin:i])
			begin = i + 1
		}
	}
	if open >= 0 {
		return nil, fmt.Sprintf("there is no '}' for the '{' in %q", name[open:])
	}
	return append(texts, name[begin:]), ""
}

// parameterPath is what is in the braces of text, if text is that alone, or text.
func parameterPath(text string) (path string, isParameter bool) {
	if strings.HasPrefix(text, "{") && strings.IndexByte(text, '}') == len(text)-1 {
		return text[1 : len(text)-1], true
	}
	return text, false
}

func notPlain(r rune) bool {
	return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '-' || r == '_')
}
