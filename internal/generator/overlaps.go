package generator

import (
	"fmt"

	"google.golang.org/protobuf/compiler/protogen"
)

// A topicName is the name of one of the request's topics.
type topicName struct {
	text     string
	words    []word
	message  *protogen.Message
	generate bool
}

// deadLetters is the name of the topics at which t's dead letters are.
func (t *topicName) deadLetters() *topicName {
	dead := *t
	dead.text = "dead.{group}." + t.text
	dead.words = append([]word{{"dead", false}, {"group", true}}, t.words...)
	return &dead
}

// checkOverlaps notes the topics that have something in common with another: who
// subscribes to the one would get events of the other. It is noted once for each, at
// the later one, or at the one that is to be generated.
func checkOverlaps(fs *faults, names []*topicName) {
	noted := make(map[*topicName]bool)
	note := func(at, other *topicName, format, common string) {
		noted[at] = true
		place := placeOfTopicOption(other.message.Desc, topicNameField)
		fs.addAt(placeOfTopicOption(at.message.Desc, topicNameField),
			fmt.Sprintf(format, at.text, other.message.Desc.FullName(), place, common),
			"give one of them another word that is no parameter, or another number of words")
	}
	for i, t := range names {
		for _, other := range names[:i] {
			at, other := t, other
			if !at.generate {
				at, other = other, at
			}
			if !at.generate || noted[at] {
				continue
			}
			if common := inCommon(at, other); common != "" {
				note(at, other, "topic %q: %s at %s has %s", common)
			}
		}
	}
	for _, t := range names {
		if !t.words[0].parameter {
			continue
		}
		for _, other := range names {
			switch dead := other.deadLetters(); {
			case t.generate && !noted[t]:
				if common := inCommon(t, dead); common != "" {
					note(t, other, "topic %q: %s at %s has dead letters at %s", common)
				}
			case !t.generate && other.generate && !noted[other]:
				if common := inCommon(dead, t); common != "" {
					note(other, t, "topic %q: there are dead letters of it, and %s at %s has %s", common)
				}
			}
		}
	}
}

// inCommon says which topics t and other have in common; it is empty where they have
// none.
func inCommon(t, other *topicName) string {
	if len(t.words) != len(other.words) {
		return ""
	}
	why := ""
	for i, a := range t.words {
		b := other.words[i]
		switch {
		case a == b:
		case !a.parameter && !b.parameter:
			return ""
		case a.parameter && b.parameter:
			if why == "" {
				why = fmt.Sprintf("and %s and %s may be the same", a, b)
			}
		}
	}
	for i, a := range t.words {
		switch b := other.words[i]; {
		case a.parameter && !b.parameter:
			return fmt.Sprintf("%q, and %s may be %q", other.text, a, b.text)
		case b.parameter && !a.parameter:
			return fmt.Sprintf("%q, whose %s may be %q", other.text, b, a.text)
		}
	}
	if why == "" {
		return "the same"
	}
	return fmt.Sprintf("%q, %s", other.text, why)
}
