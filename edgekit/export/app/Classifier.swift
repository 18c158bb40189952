// What a model of edgekit says of new examples, on iOS.
// Podfile: pod 'TensorFlowLiteSwift'; model.tflite and labels.txt are resources of the app.

import Foundation
import TensorFlowLite

final class Classifier {
    private let interpreter: Interpreter
    private let labels: [String]

    init(bundle: Bundle = .main) throws {
        guard let model = bundle.path(forResource: "model", ofType: "tflite"),
              let names = bundle.url(forResource: "labels", withExtension: "txt") else {
            throw CocoaError(.fileNoSuchFile)
        }
        labels = try String(contentsOf: names, encoding: .utf8).split(separator: "\n").map(String.init)
        interpreter = try Interpreter(modelPath: model)
        try interpreter.allocateTensors()
    }

    /// The likeliest label and its chance, of one example prepared as preprocessing.json says.
    func classify(_ values: [Float]) throws -> (label: String, score: Float) {
        try interpreter.copy(values.withUnsafeBufferPointer { Data(buffer: $0) }, toInputAt: 0)
        try interpreter.invoke()
        let scores = try interpreter.output(at: 0).data.withUnsafeBytes { Array($0.bindMemory(to: Float.self)) }
        let most = scores.max() ?? 0
        let raised = scores.map { exp($0 - most) }
        let best = raised.indices.max { raised[$0] < raised[$1] } ?? 0
        return (labels[best], raised[best] / raised.reduce(0, +))
    }
}
