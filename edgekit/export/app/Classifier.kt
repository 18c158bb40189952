// What a model of edgekit says of new examples, on Android.
// build.gradle: implementation("com.google.ai.edge.litert:litert:1.4.0"); model.tflite and labels.txt go into assets/.

import android.content.Context
import android.graphics.Bitmap
import org.tensorflow.lite.Interpreter
import java.io.FileInputStream
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.channels.FileChannel
import kotlin.math.exp

class Classifier(context: Context) : AutoCloseable {
    private val labels = context.assets.open("labels.txt").bufferedReader().readLines().filter { it.isNotEmpty() }
    private val interpreter: Interpreter

    init {
        val file = context.assets.openFd("model.tflite") // aaptOptions { noCompress("tflite") }
        val content = FileInputStream(file.fileDescriptor).channel
            .map(FileChannel.MapMode.READ_ONLY, file.startOffset, file.declaredLength)
        interpreter = Interpreter(content)
    }

    /** The likeliest label and its chance, of one example prepared as preprocessing.json says. */
    fun classify(values: FloatArray): Pair<String, Float> {
        val input = ByteBuffer.allocateDirect(4 * values.size).order(ByteOrder.nativeOrder())
        input.asFloatBuffer().put(values)
        val scores = arrayOf(FloatArray(labels.size))
        interpreter.run(input, scores)
        val most = scores[0].max()
        val raised = scores[0].map { exp(it - most) }
        val best = raised.indices.maxBy { raised[it] }
        return labels[best] to raised[best] / raised.sum()
    }

    /** A picture as the model takes it, for models of pictures. */
    fun pixels(picture: Bitmap, width: Int, height: Int, channels: Int, divideBy: Float): FloatArray {
        val small = Bitmap.createScaledBitmap(picture, width, height, true)
        val colours = IntArray(width * height).also { small.getPixels(it, 0, width, 0, 0, width, height) }
        return FloatArray(width * height * channels) { place ->
            val colour = colours[place / channels]
            val (red, green, blue) = listOf(colour shr 16 and 255, colour shr 8 and 255, colour and 255)
            val value = if (channels == 1) 0.299f * red + 0.587f * green + 0.114f * blue
            else listOf(red, green, blue)[place % channels].toFloat()
            value / divideBy
        }
    }

    override fun close() = interpreter.close()
}
