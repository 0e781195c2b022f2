package corpus

import (
	"fmt"
	"go/ast"
	"go/token"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"
)

// descriptors finds the descriptors in the files of a package: protoc-gen-go writes
// each into a constant, or a variable, with a name that ends in _rawDesc.
func descriptors(p *goPackage) ([]*descriptorpb.FileDescriptorProto, error) {
	var found []*descriptorpb.FileDescriptorProto
	for _, f := range p.files {
		for _, d := range f.Decls {
			gen, ok := d.(*ast.GenDecl)
			if !ok {
				continue
			}
			for _, spec := range gen.Specs {
				v, ok := spec.(*ast.ValueSpec)
				if !ok || len(v.Names) != 1 || len(v.Values) != 1 || !strings.HasSuffix(v.Names[0].Name, "_rawDesc") {
					continue
				}
				raw, err := constantBytes(nil, v.Values[0])
				if err != nil {
					return nil, fmt.Errorf("package %s: %s: %w", p.ImportPath, v.Names[0].Name, err)
				}
				file := new(descriptorpb.FileDescriptorProto)
				if err := proto.Unmarshal(raw, file); err != nil {
					return nil, fmt.Errorf("package %s: %s: %w", p.ImportPath, v.Names[0].Name, err)
				}
				found = append(found, file)
			}
		}
	}
	return found, nil
}

// constantBytes appends to b what e is: string literals joined by +, a literal of
// bytes, or a conversion of one of these.
func constantBytes(b []byte, e ast.Expr) ([]byte, error) {
	switch e := e.(type) {
	case *ast.BinaryExpr:
		if e.Op != token.ADD {
			break
		}
		b, err := constantBytes(b, e.X)
		if err != nil {
			return nil, err
		}
		return constantBytes(b, e.Y)
	case *ast.BasicLit:
		s, err := strconv.Unquote(e.Value)
		return append(b, s...), err
	case *ast.CallExpr:
		if len(e.Args) == 1 {
			return constantBytes(b, e.Args[0])
		}
	case *ast.CompositeLit:
		for _, el := range e.Elts {
			lit, ok := el.(*ast.BasicLit)
			if !ok {
				return nil, fmt.Errorf("%T is not a byte", el)
			}
			n, err := strconv.ParseUint(lit.Value, 0, 8)
			if err != nil {
				return nil, err
			}
			b = append(b, byte(n))
		}
		return b, nil
	}
	return nil, fmt.Errorf("%T is not a known form of bytes", e)
}
